import { randomUUID } from "node:crypto";
import { Readable, type Duplex } from "node:stream";
import type { ReadableStream as NodeReadableStream } from "node:stream/web";
import { setTimeout as delay } from "node:timers/promises";
import { fetch as undiciFetch, type Dispatcher, type RequestInit as UndiciRequestInit } from "undici";
import { createWebSocketStream, WebSocket } from "ws";
import { ApiError, ConnectionError, retryAfterMs, toApiError } from "./error.ts";
import { localhostDispatcher, lookupLocalhost } from "./localhost.ts";
import { parseEvents, type ServerEvent } from "./sse.ts";

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
export type Query = Record<string, string | number | boolean | undefined>;
export type FetchLike = (url: string, init: RequestInit) => Promise<Response>;

export interface ClientOptions {
  /** Includes `/api/v1`. */
  readonly baseUrl: string;
  readonly apiKey: string;
  readonly fetch?: FetchLike;
  /** `localhost` (default) reaches `*.localhost` on 127.0.0.1; `system` asks only the system. */
  readonly resolveHost?: "localhost" | "system";
  /** Retries after the first try. Default 3. */
  readonly maxRetries?: number;
  /** Upper bound of the first pause, in milliseconds; doubles. Default 500. */
  readonly retryBaseMs?: number;
  /** Default 60 000. */
  readonly timeoutMs?: number;
  readonly userAgent?: string;
}

export interface CallOptions {
  readonly query?: Query;
  readonly body?: unknown;
  /** Sent as they are, in place of `body`. */
  readonly bytes?: Uint8Array | Blob;
  /** Sent as Idempotency-Key, the same on every retry; makes a POST safe to repeat. */
  readonly idempotencyKey?: string;
  /** Of a stream that shall go on after this event. */
  readonly lastEventId?: number;
  readonly timeoutMs?: number;
  /** Of this call. 0 where the server itself waits for what is asked. */
  readonly maxRetries?: number;
  readonly signal?: AbortSignal;
}

const retriedStatuses = new Set([429, 500, 502, 503, 504]);
const longestPauseMs = 30_000;

export const newIdempotencyKey = (): string => randomUUID();

/** One credential at one base URL: headers, retries, errors, envelopes. */
export class Transport {
  readonly baseUrl: string;
  readonly #options: ClientOptions;
  readonly #dispatcher: Dispatcher | undefined;
  readonly #fetch: FetchLike;

  constructor(options: ClientOptions) {
    this.baseUrl = options.baseUrl.replace(/\/+$/, "");
    this.#options = options;
    const ownLookup = (options.resolveHost ?? "localhost") === "localhost";
    const dispatcher = ownLookup && !options.fetch ? localhostDispatcher() : undefined;
    this.#dispatcher = dispatcher;
    this.#fetch = options.fetch ?? ((url, init) => fetchThrough(url, init, dispatcher));
  }

  async close(): Promise<void> {
    await this.#dispatcher?.destroy();
  }

  /** The object of `{"data": …}`, or the bare object. */
  async json<T>(method: Method, path: string, options: CallOptions = {}): Promise<T> {
    const body = await this.envelope(method, path, options);
    const isEnvelope = typeof body === "object" && body !== null && "data" in body;
    return (isEnvelope ? body.data : body) as T;
  }

  /** The whole body, for answers with something beside `data`. */
  async envelope(method: Method, path: string, options: CallOptions = {}): Promise<unknown> {
    const response = await this.#send(method, path, "application/json", options);
    const text = await this.#read(() => response.text());
    if (text.trim() === "") return {};
    try {
      return JSON.parse(text) as unknown;
    } catch (cause) {
      throw new ConnectionError("CONNECTION_FAILED", `The answer of ${method} ${path} is not JSON.`, {
        cause,
      });
    }
  }

  async bytes(path: string, options: CallOptions = {}): Promise<Buffer> {
    const response = await this.#send("GET", path, "*/*", options);
    return Buffer.from(await this.#read(() => response.arrayBuffer()));
  }

  /** Bytes as they come; the caller reads or destroys the stream. */
  async stream(path: string, options: CallOptions = {}): Promise<Readable> {
    const { body } = await this.#send("GET", path, "*/*", options);
    return body ? Readable.fromWeb(body as NodeReadableStream) : Readable.from([]);
  }

  /** Events until the server ends the stream. No time-out but the signal. */
  async *events(method: Method, path: string, options: CallOptions = {}): AsyncGenerator<ServerEvent> {
    const response = await this.#send(method, path, "text/event-stream", { ...options, timeoutMs: 0 });
    if (!response.body) return;
    yield* parseEvents(response.body);
  }

  /** @throws ApiError when the server refuses to upgrade, ConnectionError when it does not answer */
  tunnel(path: string): Promise<Duplex> {
    const url = new URL(this.baseUrl + path);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, {
      headers: { authorization: `Bearer ${this.#options.apiKey}` },
      perMessageDeflate: false,
      handshakeTimeout: this.#options.timeoutMs ?? 60_000,
      ...(this.#dispatcher ? { lookup: lookupLocalhost } : {}),
    });
    return new Promise((resolve, reject) => {
      socket.once("open", () => resolve(createWebSocketStream(socket)));
      socket.once("unexpected-response", (_request, response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (part: string) => (text += part));
        response.once("close", () => {
          reject(toApiError(response.statusCode ?? 0, new Headers(), text));
          socket.terminate();
        });
      });
      socket.once("error", (cause) =>
        reject(new ConnectionError("CONNECTION_FAILED", `No connection to ${url.host}.`, { cause })),
      );
    });
  }

  async #read<T>(read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (cause) {
      throw new ConnectionError("CONNECTION_FAILED", "The connection broke before the answer was complete.", {
        cause,
      });
    }
  }

  async #send(method: Method, path: string, accept: string, options: CallOptions): Promise<Response> {
    const mayRepeat = method !== "POST" && method !== "PATCH" ? true : options.idempotencyKey !== undefined;
    for (let attempt = 0; ; attempt++) {
      const isLast = attempt >= (options.maxRetries ?? this.#options.maxRetries ?? 3);
      try {
        const response = await this.#once(method, path, accept, options);
        if (response.ok) return response;
        const error = toApiError(response.status, response.headers, await this.#read(() => response.text()));
        if (isLast || !isRetried(error, mayRepeat)) throw error;
        await this.#pause(attempt, retryAfterMs(response.headers) ?? error.retryAfterMs, options.signal);
      } catch (error) {
        const canRetry = error instanceof ConnectionError && error.code !== "TIMEOUT" && mayRepeat;
        if (isLast || !canRetry || options.signal?.aborted) throw error;
        await this.#pause(attempt, null, options.signal);
      }
    }
  }

  async #once(method: Method, path: string, accept: string, options: CallOptions): Promise<Response> {
    const url = new URL(this.baseUrl + path);
    for (const [name, value] of Object.entries(options.query ?? {})) {
      if (value !== undefined) url.searchParams.set(name, String(value));
    }
    const timeoutMs = options.timeoutMs ?? this.#options.timeoutMs ?? 60_000;
    const signals = [
      ...(timeoutMs > 0 ? [AbortSignal.timeout(timeoutMs)] : []),
      ...(options.signal ? [options.signal] : []),
    ];
    const init: RequestInit = {
      method,
      headers: this.#headers(accept, options),
      signal: AbortSignal.any(signals),
      redirect: "error",
    };
    if (options.body !== undefined) init.body = JSON.stringify(options.body);
    if (options.bytes !== undefined) init.body = options.bytes as Uint8Array<ArrayBuffer> | Blob;
    try {
      return await this.#fetch(url.href, init);
    } catch (cause) {
      if (options.signal?.aborted) throw cause;
      if (cause instanceof DOMException && cause.name === "TimeoutError") {
        throw new ConnectionError("TIMEOUT", `${method} ${path} took longer than ${timeoutMs / 1000} s.`, {
          cause,
        });
      }
      throw new ConnectionError("CONNECTION_FAILED", `${url.origin} did not answer: ${reasonOf(cause)}.`, {
        cause,
      });
    }
  }

  #headers(accept: string, options: CallOptions): Record<string, string> {
    return {
      accept,
      authorization: `Bearer ${this.#options.apiKey}`,
      "user-agent": this.#options.userAgent ?? "platform-sdk",
      ...(options.body === undefined ? {} : { "content-type": "application/json" }),
      ...(options.bytes === undefined ? {} : { "content-type": "application/octet-stream" }),
      ...(options.idempotencyKey === undefined ? {} : { "idempotency-key": options.idempotencyKey }),
      ...(options.lastEventId === undefined ? {} : { "last-event-id": String(options.lastEventId) }),
    };
  }

  /** Full jitter, so that clients which failed together do not come back together. */
  async #pause(attempt: number, askedMs: number | null, signal: AbortSignal | undefined): Promise<void> {
    const bound = (this.#options.retryBaseMs ?? 500) * 2 ** attempt;
    const ms = Math.min(longestPauseMs, askedMs ?? Math.random() * bound);
    await delay(ms, undefined, signal ? { signal } : {});
  }
}

/** The global fetch and undici's differ in types only; undici's own takes a dispatcher of its version. */
async function fetchThrough(url: string, init: RequestInit, dispatcher?: Dispatcher): Promise<Response> {
  const options = { ...init, ...(dispatcher ? { dispatcher } : {}) } as UndiciRequestInit;
  return (await undiciFetch(url, options)) as unknown as Response;
}

/** 409 and 429 with `retryable` were refused before any work, so even a bare POST may be repeated. */
function isRetried(error: ApiError, mayRepeat: boolean): boolean {
  if (error.status === 429) return true;
  if (error.status === 409) return error.retryable;
  return mayRepeat && retriedStatuses.has(error.status);
}

function reasonOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const code = (cause as NodeJS.ErrnoException | null)?.code;
  return code ?? (cause instanceof Error ? cause.message : String(cause));
}
