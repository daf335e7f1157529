import { isIP } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { Client as PostgresClient } from "pg";
import { request, type Dispatcher } from "undici";
import { WebSocket } from "ws";
import { localhostDispatcher, lookupLocalhost, type DatabaseCredentials } from "@platform/sdk";
import { loginOptions } from "@platform/postgres";
import { refute } from "./proof.ts";

/** Looks from outside, as a browser would: by public host name, through the gateway. */

export interface Seen {
  readonly status: number;
  readonly text: string;
  readonly ms: number;
}

let shared: Dispatcher | null = null;
const dispatcher = (): Dispatcher => (shared ??= localhostDispatcher({ connections: 16 }));

export async function closeProbes(): Promise<void> {
  await shared?.destroy();
  shared = null;
}

export async function look(
  url: string,
  options: {
    method?: "GET" | "POST";
    json?: unknown;
    form?: Record<string, string>;
    timeoutMs?: number;
  } = {},
): Promise<Seen> {
  const startedAt = performance.now();
  const body = options.form
    ? new URLSearchParams(options.form).toString()
    : options.json === undefined
      ? null
      : JSON.stringify(options.json);
  const type = options.form ? "application/x-www-form-urlencoded" : "application/json";
  const response = await request(url, {
    method: options.method ?? "GET",
    headers: body === null ? {} : { "content-type": type },
    body,
    dispatcher: dispatcher(),
    signal: AbortSignal.timeout(options.timeoutMs ?? 15_000),
  });
  const text = await response.body.text();
  return { status: response.statusCode, text, ms: performance.now() - startedAt };
}

export function expectStatus(seen: Seen, wanted: number, url: string): void {
  if (seen.status === wanted) return;
  const start = seen.text
    .replace(/<style[\s\S]*?<\/style>|<[^>]+>/g, " ")
    .replace(/\s+/g, " ")
    .trim()
    .slice(0, 200);
  refute(`${url} answered ${seen.status} instead of ${wanted}: ${start}`, "Read the logs named at the end.");
}

/** Repeats a look until it holds; a gateway learns of a change some milliseconds after the API. */
export async function until<T>(what: string, timeoutMs: number, check: () => Promise<T | null>): Promise<T> {
  const endsAt = performance.now() + timeoutMs;
  let last: unknown = null;
  for (;;) {
    try {
      const value = await check();
      if (value !== null) return value;
      last = null;
    } catch (error) {
      last = error;
    }
    if (performance.now() > endsAt) {
      if (last instanceof Error) throw last;
      refute(`${what} was not seen within ${timeoutMs / 1000} s`, "Read the logs named at the end.");
    }
    await delay(50);
  }
}

export interface LiveFeed {
  /** Resolves with the first message that `matches`. */
  next(
    matches: (message: Record<string, unknown>) => boolean,
    timeoutMs: number,
  ): Promise<Record<string, unknown>>;
  close(): void;
}

/** Opens a WebSocket by public host name and keeps every message. */
export async function openLive(httpUrl: string): Promise<LiveFeed> {
  const url = httpUrl.replace(/^http/, "ws");
  // Both names exist: `lookup` goes to node:net, which the type of ws does not list.
  const socket = new WebSocket(url, {
    lookup: lookupLocalhost,
    handshakeTimeout: 10_000,
  } as WebSocket.ClientOptions);
  const messages: Record<string, unknown>[] = [];
  socket.on("message", (data) => messages.push(JSON.parse(String(data)) as Record<string, unknown>));
  await new Promise<void>((resolve, reject) => socket.once("open", resolve).once("error", reject));
  socket.on("error", () => socket.terminate());
  return {
    next: (matches, timeoutMs) =>
      until("the live message", timeoutMs, () =>
        Promise.resolve(messages.find((message) => matches(message)) ?? null),
      ),
    close: () => socket.terminate(),
  };
}

/** An address has no server name (RFC 6066). */
const named = (host: string): { servername?: string } => (isIP(host) ? {} : { servername: host });

/** Logs in from this process with the very credentials that were handed out, verifying the certificate. */
export async function withPostgres<T>(
  credentials: DatabaseCredentials,
  work: (client: PostgresClient) => Promise<T>,
): Promise<T> {
  const mode = new URL(credentials.recommended_url ?? credentials.url).searchParams.get("sslmode");
  const isPlain = mode === null || mode === "disable";
  const ca = credentials.ssl?.ca_certificate ?? undefined;
  const client = new PostgresClient(
    loginOptions({
      host: credentials.host.endsWith(".localhost") ? "127.0.0.1" : credentials.host,
      port: credentials.port,
      user: credentials.username,
      password: credentials.password,
      database: credentials.database,
      ssl: isPlain ? false : { rejectUnauthorized: true, ...named(credentials.host), ...(ca ? { ca } : {}) },
    }),
  );
  client.on("error", () => undefined); // A server that goes away is seen by the query that follows.
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
