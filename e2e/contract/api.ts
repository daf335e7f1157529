import { request as httpRequest } from "node:http";
import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";

export type Json = Record<string, unknown>;

/** One answer as it came over the wire, kept for the checks that concern all of them. */
export interface Answer {
  readonly method: string;
  /** Path with query, below /api/v1. */
  readonly path: string;
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly text: string;
  /** undefined: the body is no JSON. */
  readonly json: unknown;
}

interface Sent {
  readonly body?: unknown;
  /** Sent as it is, in place of `body`. */
  readonly raw?: string | Uint8Array;
  readonly headers?: Record<string, string>;
  readonly key?: string | null;
}

export interface SseEvent {
  readonly event: string | null;
  readonly id: string | null;
  readonly data: Json;
}

/** A stream as it was read: events, comments, and whether the server ended it. */
export interface StreamRead {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly events: SseEvent[];
  readonly comments: string[];
  readonly ended: boolean;
}

export const base64 = (text: string) => Buffer.from(text).toString("base64");

const parse = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // Bytes and pages are no JSON; the checks that need JSON say so.
  }
};

/** Talks to the API as a published client does, and remembers every answer. */
export class Api {
  readonly answers: Answer[] = [];
  #url = "";
  #key = "";

  connect(apiUrl: string, apiKey: string): void {
    this.#url = apiUrl;
    this.#key = apiKey;
  }

  async call(method: string, path: string, sent: Sent = {}): Promise<Answer> {
    const isJson = sent.body !== undefined;
    const key = sent.key === undefined ? this.#key : sent.key;
    const response = await fetch(this.#url + path, {
      method,
      redirect: "manual",
      headers: {
        accept: "application/json",
        ...(key === null ? {} : { authorization: `Bearer ${key}` }),
        ...(isJson || sent.raw !== undefined ? { "content-type": "application/json" } : {}),
        ...sent.headers,
      },
      ...(isJson
        ? { body: JSON.stringify(sent.body) }
        : sent.raw === undefined
          ? {}
          : { body: sent.raw as string }),
    });
    const text = await response.text();
    const answer: Answer = {
      method,
      path,
      status: response.status,
      headers: Object.fromEntries(response.headers),
      text,
      json: parse(text),
    };
    this.answers.push(answer);
    return answer;
  }

  get = (path: string, sent?: Sent) => this.call("GET", path, sent);
  post = (path: string, body: unknown = {}, sent?: Sent) => this.call("POST", path, { body, ...sent });
  create = (path: string, body: unknown, key: string = randomUUID()) =>
    this.call("POST", path, { body, headers: { "idempotency-key": key } });

  /** Reads a stream until `done` holds, the server ends it, or the time is over. */
  async stream(
    path: string,
    done: (read: StreamRead) => boolean,
    options: {
      body?: unknown;
      key?: string | null;
      timeoutMs?: number;
      accept?: string;
      onOpen?: () => void;
    } = {},
  ): Promise<StreamRead> {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), options.timeoutMs ?? 20_000);
    const key = options.key === undefined ? this.#key : options.key;
    const read: { -readonly [K in keyof StreamRead]: StreamRead[K] } = {
      status: 0,
      headers: {},
      events: [],
      comments: [],
      ended: false,
    };
    try {
      const response = await fetch(this.#url + path, {
        method: options.body === undefined ? "GET" : "POST",
        signal: abort.signal,
        headers: {
          accept: options.accept ?? "text/event-stream",
          ...(key === null ? {} : { authorization: `Bearer ${key}` }),
          ...(options.body === undefined ? {} : { "content-type": "application/json" }),
        },
        ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
      });
      read.status = response.status;
      read.headers = Object.fromEntries(response.headers);
      options.onOpen?.();
      let rest = "";
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
        const blocks = (rest + chunk).split("\n\n");
        rest = blocks.pop() ?? "";
        for (const block of blocks) addBlock(read, block);
        if (done(read)) return read;
      }
      read.ended = true;
    } catch (error) {
      if (!abort.signal.aborted) throw error;
    } finally {
      clearTimeout(timer);
      abort.abort();
    }
    return read;
  }

  /** Asks until `done` holds. */
  async until(path: string, done: (json: Json) => boolean, timeoutMs = 90_000): Promise<Answer> {
    const endsAt = Date.now() + timeoutMs;
    for (;;) {
      const answer = await this.get(path);
      if (answer.status === 200 && done(answer.json as Json)) return answer;
      if (Date.now() > endsAt)
        throw new Error(`${path} never came to what was awaited: ${answer.text.slice(0, 2000)}`);
      await delay(250);
    }
  }
}

function addBlock(read: StreamRead, block: string): void {
  let event: string | null = null;
  let id: string | null = null;
  const data: string[] = [];
  for (const line of block.split("\n")) {
    if (line.startsWith(":")) read.comments.push(line);
    else if (line.startsWith("event:")) event = line.slice("event:".length).trim();
    else if (line.startsWith("id:")) id = line.slice("id:".length).trim();
    else if (line.startsWith("data:")) data.push(line.slice("data:".length).trim());
  }
  if (data.length === 0) return;
  if (data.length > 1)
    throw new Error(`an event has ${data.length} data lines; clients read one JSON per line`);
  read.events.push({ event, id, data: JSON.parse(data[0]!) as Json });
}

/** A request by a public host name, as a browser sends it. The name need not resolve. */
export function visit(port: number, url: string, path = "/"): Promise<Answer> {
  const { host } = new URL(url);
  return new Promise((resolve, reject) => {
    const sent = httpRequest(
      { host: "127.0.0.1", port, path, headers: { host }, agent: false },
      (response) => {
        const parts: Buffer[] = [];
        response.on("data", (part: Buffer) => parts.push(part));
        response.on("error", reject);
        response.on("end", () => {
          const text = Buffer.concat(parts).toString("utf8");
          const headers = Object.fromEntries(
            Object.entries(response.headers).map(([name, value]) => [name, String(value)]),
          );
          resolve({
            method: "GET",
            path: `${host}${path}`,
            status: response.statusCode ?? 0,
            headers,
            text,
            json: parse(text),
          });
        });
      },
    );
    sent.setTimeout(20_000, () => sent.destroy(new Error(`${url} did not answer`)));
    sent.on("error", reject);
    sent.end();
  });
}
