import { createHash, timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Log } from "@platform/daemon";
import { BoxKey, HostError } from "@platform/host-api";
import { ZodError } from "zod";
import { proxyToGuest } from "./guest-proxy.ts";
import { createRoutes, findRoute, type Routes, type Services } from "./routes.ts";
import { openTunnel } from "./tunnel.ts";

export interface HttpOptions {
  readonly services: Services;
  readonly token: string;
  readonly log: Log;
}

export interface HttpServer {
  readonly port: number;
  close(): Promise<void>;
}

const maxBodyBytes = 4 * 1024 * 1024;
const backupPath = /^\/databases\/([a-z0-9-]+)\/(backup|restore|log-segment)$/;
const uploadPath = /^\/image-uploads\/([a-z0-9-]+)$/;
const guestPath = /^\/boxes\/([a-z0-9-]+)\/guest(\/.*)$/;

const digest = (text: string) => createHash("sha256").update(text).digest();

/** Serves the host's API on 127.0.0.1. */
export async function serve(options: HttpOptions, port: number): Promise<HttpServer> {
  const routes = createRoutes(options.services);
  const wanted = digest(`Bearer ${options.token}`);
  const stopping = new AbortController();
  const assertCaller = (request: IncomingMessage) => {
    // Digests have equal length, so the comparison tells nothing about the token.
    if (timingSafeEqual(digest(request.headers.authorization ?? ""), wanted)) return;
    throw new HostError("UNAUTHORIZED", 401, "The host needs its bearer token.");
  };
  const server = createServer(
    // Guest streams and uploads last as long as they last.
    { requestTimeout: 0, headersTimeout: 60_000, keepAliveTimeout: 60_000, noDelay: true },
    (request, response) => {
      answer(options, routes, request, response, () => assertCaller(request), stopping.signal).catch(
        (error: unknown) => sendError(options.log, response, error),
      );
    },
  );
  const tunnels = new Set<Duplex>();
  server.on("connect", (request: IncomingMessage, client: Duplex, head: Buffer) => {
    tunnels.add(client);
    client.once("close", () => tunnels.delete(client));
    client.on("error", () => client.destroy());
    const open = async () => {
      assertCaller(request);
      await openTunnel(options.services, request.url ?? "", client, head);
    };
    open().catch((error: unknown) => refuse(options.log, client, error));
  });
  server.on("clientError", (_error, socket) => socket.destroy());
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen(port, "127.0.0.1", resolve);
  await promise;
  return {
    port: (server.address() as AddressInfo).port,
    close: () => closeServer(server, tunnels, stopping),
  };
}

async function closeServer(server: Server, tunnels: Set<Duplex>, stopping: AbortController): Promise<void> {
  stopping.abort();
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeAllConnections();
  for (const tunnel of tunnels) tunnel.destroy();
  await closed;
}

async function answer(
  { services }: HttpOptions,
  routes: Routes,
  request: IncomingMessage,
  response: ServerResponse,
  assertCaller: () => void,
  signal: AbortSignal,
): Promise<void> {
  assertCaller();
  const url = request.url ?? "/";
  const [, key, rest] = guestPath.exec(url) ?? [];
  if (key !== undefined && rest !== undefined) {
    await proxyToGuest(services.boxes.get(key), rest, request, response);
    return;
  }
  const { pathname, searchParams } = new URL(url, "http://host");
  const [, databaseKey, way] = backupPath.exec(pathname) ?? [];
  if (databaseKey !== undefined && way === "backup" && request.method === "POST") {
    await sendBackup(services, databaseKey, response, signal);
    return;
  }
  if (databaseKey !== undefined && way === "restore" && request.method === "PUT") {
    const wanted = parseText(String(request.headers["x-restore"] ?? ""));
    sendJson(response, 200, await services.engines.restore(databaseKey, wanted, request, signal));
    return;
  }
  if (databaseKey !== undefined && way === "log-segment" && request.method === "GET") {
    const segment = await (await services.engines.log(databaseKey)).read(searchParams.get("name") ?? "");
    response.writeHead(200, { "content-type": "application/octet-stream" }).end(segment);
    return;
  }
  const [, uploadKey] = uploadPath.exec(pathname) ?? [];
  if (request.method === "PUT" && uploadKey !== undefined) {
    // Bytes of any length: they are never held.
    sendJson(response, 200, await services.images.uploads.put(BoxKey.parse(uploadKey), request));
    return;
  }
  const route = findRoute(routes, request.method ?? "GET", pathname);
  const body = await readJson(request);
  const result = await route.handler({ key: route.key, query: searchParams, body, signal });
  if (result === undefined) response.writeHead(204).end();
  else sendJson(response, 200, result);
}

/** A failure in the middle ends the connection: the stream then lacks the frame that ends it. */
async function sendBackup(
  { engines }: Services,
  key: string,
  response: ServerResponse,
  stopping: AbortSignal,
): Promise<void> {
  const gone = new AbortController();
  response.once("close", () => gone.abort());
  const frames = await engines.backup(key, AbortSignal.any([stopping, gone.signal]));
  // The first frame is awaited before the head is sent, so that a refusal has its status.
  const iterator = frames[Symbol.asyncIterator]();
  const first = await iterator.next();
  const rest = async function* () {
    if (!first.done) yield first.value;
    yield* { [Symbol.asyncIterator]: () => iterator };
  };
  response.writeHead(200, { "content-type": "application/octet-stream" });
  await pipeline(rest, response);
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > maxBodyBytes) throw new HostError("INVALID", 413, "The body is longer than 4 MiB.");
    chunks.push(chunk);
  }
  return size === 0 ? undefined : parseText(Buffer.concat(chunks).toString("utf8"));
}

function parseText(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The parser's message quotes the text, which may hold secrets.
    throw new HostError("INVALID", 400, "The body is not JSON.");
  }
}

function sendJson(response: ServerResponse, status: number, value: unknown): void {
  const text = JSON.stringify(value);
  response
    .writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text) })
    .end(text);
}

function toHostError(log: Log, error: unknown): HostError {
  if (error instanceof HostError) return error;
  if (error instanceof ZodError) {
    const issues = error.issues.map(({ path, message }) => ({ path: path.join("."), message }));
    return new HostError("INVALID", 400, "The request is not valid.", { issues });
  }
  if (isTyped(error)) return new HostError(error.code, error.status, error.message, error.details ?? {});
  log.error({ err: error }, "unexpected failure");
  return new HostError("INTERNAL", 500, "The host failed unexpectedly. Its log says why.");
}

function isTyped(
  error: unknown,
): error is Error & { code: string; status: number; details?: Record<string, unknown> } {
  if (!(error instanceof Error)) return false;
  const { code, status } = error as { code?: unknown; status?: unknown };
  return typeof code === "string" && typeof status === "number";
}

const render = ({ code, message, details }: HostError) => ({ error: { code, message, details } });

function sendError(log: Log, response: ServerResponse, error: unknown): void {
  const known = toHostError(log, error);
  if (response.headersSent) {
    response.destroy();
    return;
  }
  // An unread body would otherwise be taken for the next request.
  if (!response.req.complete) response.setHeader("connection", "close");
  sendJson(response, known.status, render(known));
}

function refuse(log: Log, client: Duplex, error: unknown): void {
  const known = toHostError(log, error);
  const body = JSON.stringify(render(known));
  client.end(
    `HTTP/1.1 ${known.status} Refused\r\ncontent-type: application/json\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  );
}
