import { Agent, request, type ClientRequest, type IncomingMessage, type RequestOptions } from "node:http";
import type { Duplex } from "node:stream";
import { createGuestClient, type GuestClient } from "@platform/guest-protocol";
import { HostError } from "@platform/host-api";

export type DialGuest = () => Promise<Duplex>;

/** Keeps a few idle connections to one box's agent, so that a request costs no new dial. */
export class GuestConnection {
  readonly #agent: Agent;
  constructor(dial: DialGuest) {
    this.#agent = new DialingAgent(dial);
  }

  /** The agent's full protocol over the same connections. */
  get client(): GuestClient {
    return createGuestClient({ baseUrl: "http://box", agent: this.#agent });
  }

  send(options: RequestOptions): ClientRequest {
    return request({ ...options, agent: this.#agent, host: "box" });
  }

  /**
   * One small JSON exchange.
   *
   * @throws HostError `BOX_FAILED` when the agent does not answer in time or not with success
   */
  async json(method: string, path: string, body: unknown, timeoutMs: number): Promise<unknown> {
    const text = body === undefined ? null : JSON.stringify(body);
    const signal = AbortSignal.timeout(timeoutMs);
    try {
      return await new Promise((resolve, reject) => {
        const headers = text === null ? {} : { "content-type": "application/json" };
        const call = this.send({ method, path, headers, signal });
        call.once("error", reject);
        call.once("response", (response) => void collect(response).then(resolve, reject));
        call.end(text ?? undefined);
      });
    } catch (cause) {
      const message = `The box's agent did not accept ${method} ${path}: ${(cause as Error).message}`;
      throw new HostError("BOX_FAILED", 502, message, {}, { cause });
    }
  }

  close(): void {
    this.#agent.destroy();
  }
}

async function collect(response: IncomingMessage): Promise<unknown> {
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) {
    text += String(chunk);
    if (text.length > 1024 * 1024) throw new Error("its answer is longer than 1 MiB");
  }
  const status = response.statusCode ?? 0;
  if (status < 200 || status > 299) throw new Error(`it answered ${status}: ${text.slice(0, 500)}`);
  return text === "" ? null : JSON.parse(text);
}

class DialingAgent extends Agent {
  readonly #dial: DialGuest;
  constructor(dial: DialGuest) {
    super({ keepAlive: true, maxFreeSockets: 16, timeout: 0 });
    this.#dial = dial;
  }

  override createConnection(
    _options: RequestOptions,
    callback?: (error: Error | null, stream: Duplex) => void,
  ): undefined {
    this.#dial().then(
      (stream) => callback?.(null, stream),
      (error: Error) => callback?.(error, undefined as unknown as Duplex),
    );
    return undefined;
  }
}
