import { request, type IncomingMessage } from "node:http";
import { dialSocket } from "../linux/socket.ts";

const maxAnswerBytes = 256 * 1024;

/** Firecracker refused a request; the message is its own. */
export class FirecrackerRefusal extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/**
 * Firecracker's control interface: HTTP on a unix socket, one request a connection.
 *
 * @see https://github.com/firecracker-microvm/firecracker/blob/main/src/firecracker/swagger/firecracker.yaml
 */
export class FirecrackerApi {
  readonly #socketPath: string;
  readonly #answerTimeoutMs: number;

  constructor(socketPath: string, answerTimeoutMs: number) {
    this.#socketPath = socketPath;
    this.#answerTimeoutMs = answerTimeoutMs;
  }

  /**
   * @returns the answer's JSON, `null` for one without
   * @throws FirecrackerRefusal; Error when no answer comes
   */
  async send(
    method: "GET" | "PUT" | "PATCH",
    path: string,
    body?: Record<string, unknown>,
    timeoutMs = this.#answerTimeoutMs,
  ): Promise<unknown> {
    const socket = await dialSocket(this.#socketPath);
    const signal = AbortSignal.timeout(timeoutMs);
    try {
      const response = await new Promise<IncomingMessage>((resolve, reject) => {
        const headers = {
          accept: "application/json",
          "content-type": "application/json",
          connection: "close",
        };
        const call = request({ createConnection: () => socket, method, path, headers, signal });
        call.once("error", reject);
        call.once("response", resolve);
        call.end(body === undefined ? undefined : JSON.stringify(body));
      });
      const text = await textOf(response);
      const value: unknown = text === "" ? null : JSON.parse(text);
      const status = response.statusCode ?? 0;
      if (status >= 200 && status < 300) return value;
      const fault = (value as { fault_message?: unknown } | null)?.fault_message;
      throw new FirecrackerRefusal(
        status,
        `${method} ${path}: ${typeof fault === "string" ? fault : status}`,
      );
    } catch (cause) {
      if (cause instanceof FirecrackerRefusal) throw cause;
      const why = signal.aborted ? `it did not answer within ${timeoutMs} ms` : (cause as Error).message;
      throw new Error(`Firecracker failed at ${method} ${path}: ${why}`, { cause });
    } finally {
      socket.destroy();
    }
  }
}

async function textOf(response: IncomingMessage): Promise<string> {
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) {
    text += String(chunk);
    if (text.length > maxAnswerBytes) throw new Error("its answer is too long");
  }
  return text;
}
