import { Agent, request } from "node:http";
import { setTimeout as delay } from "node:timers/promises";

export interface Answer {
  readonly status: number;
  readonly text: string;
}

export class Refused extends Error {
  readonly status: number;
  constructor(what: string, answer: Answer) {
    super(`${what} was answered with ${answer.status}: ${answer.text.slice(0, 2000)}`);
    this.status = answer.status;
  }
}

/** A single request to 127.0.0.1 with any Host header. Rejects when the connection fails. */
export function ask(
  url: URL,
  options: {
    method?: string;
    headers?: Record<string, string>;
    body?: string | undefined;
    timeoutMs?: number;
  } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const call = request(
      {
        host: "127.0.0.1",
        port: url.port,
        path: url.pathname + url.search,
        method: options.method ?? "GET",
        headers: { host: url.host, ...options.headers },
        // A connection of its own: a pooled one may belong to a process that was killed.
        agent: new Agent({ keepAlive: false }),
        timeout: options.timeoutMs ?? 60_000,
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("error", reject);
        response.on("close", () =>
          response.complete
            ? resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString() })
            : reject(new Error("the answer broke off")),
        );
      },
    );
    call.on("timeout", () => call.destroy(new Error(`no answer of ${url.href} in time`)));
    call.on("error", reject);
    call.end(options.body);
  });
}

const retriedStatuses = new Set([429, 500, 502, 503, 504]);
const mostMs = 90_000;

/** Repeats as the contract tells clients to: 5xx, 429, retryable 409 and broken connections, same key. */
export class Api {
  readonly #base: string;
  readonly #key: string;
  readonly #mostMs: number;
  /** @param patienceMs how long a refusal that may be repeated is, milliseconds */
  constructor(base: string, key: string, patienceMs = mostMs) {
    this.#mostMs = patienceMs;
    this.#base = base;
    this.#key = key;
  }

  get = <T>(path: string) => this.send<T>("GET", path);
  post = <T>(path: string, body: unknown, key: string) => this.send<T>("POST", path, body, key);
  delete = (path: string) => this.send<unknown>("DELETE", path);

  async send<T>(method: string, path: string, body?: unknown, key?: string): Promise<T> {
    const headers: Record<string, string> = { authorization: `Bearer ${this.#key}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    if (key !== undefined) headers["idempotency-key"] = key;
    const endsAt = performance.now() + this.#mostMs;
    for (;;) {
      const late = performance.now() > endsAt;
      try {
        const answer = await ask(new URL(this.#base + path), {
          method,
          headers,
          body: body === undefined ? undefined : JSON.stringify(body),
        });
        if (answer.status < 300) {
          const parsed = JSON.parse(answer.text || "{}") as { data?: unknown };
          return ("data" in parsed ? parsed.data : parsed) as T;
        }
        // It was there when we asked first: gone is what was wanted.
        if (method === "DELETE" && answer.status === 404) return {} as T;
        const isRetried =
          retriedStatuses.has(answer.status) ||
          (answer.status === 409 && answer.text.includes('"retryable":true'));
        if (late || !isRetried) throw new Refused(`${method} ${path}`, answer);
      } catch (error) {
        if (late || error instanceof Refused) throw error;
      }
      await delay(200);
    }
  }
}
