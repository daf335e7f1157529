import type { IncomingMessage, ServerResponse } from "node:http";
import { unguessableId } from "@platform/daemon";
import type { Route } from "@platform/edge-api";
import type { AppGuard } from "./firewall/index.ts";
import { normalizeHostname } from "./routes/index.ts";

export interface RequestBody {
  readonly body: AsyncIterable<Buffer> | Buffer | null;
  /** Sending the request twice does no harm, and its body is at hand to do so. */
  readonly replayable: boolean;
}

/** One request with what the edge found out about it. */
export interface Exchange {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly requestId: string;
  readonly startedAt: Date;
  /** Monotonic, milliseconds. */
  readonly startedMs: number;
  /** Of the client's connection when this request began: later minus this is what it was sent. */
  readonly bytesWrittenBefore: number;
  /** Normalised; empty if the Host header was unusable. */
  readonly hostname: string;
  /** Host as the client sent it, port included. */
  readonly host: string;
  /** Origin form, with query. What opens a private preview is taken out before an app sees it. */
  target: string;
  /** Where our own front keeps the answer, if it may; null: the client gets it alone. */
  fill: string | null;
  /** What is served; null as long as no route is found. */
  route: Route | null;
  /** Set for an app: what it may see of its client, and its client of it. */
  guard: AppGuard | null;
  /** A release that was asked first and failed; another one answers. */
  failedReleaseId: string | null;
  /** Opened once, whoever is asked how often. */
  body: Promise<RequestBody> | null;
  /** Protocol that the client wants to change to, such as `websocket`. */
  readonly upgrade: string | null;
  /** The client sent `Expect: 100-continue` and waits for our word. */
  readonly expectsContinue: boolean;
}

/** Aborts once the client is gone before its answer was complete. */
export function clientGone(exchange: Exchange): AbortSignal {
  const controller = new AbortController();
  const { res } = exchange;
  if (res.destroyed || res.socket?.destroyed) controller.abort();
  res.once("close", () => {
    if (!res.writableFinished) controller.abort();
  });
  return controller.signal;
}

export type MalformedKind = "bad_request" | "headers_too_large";

/** Bytes of names, values and separators. */
const MAX_HEADER_BYTES = 64 * 1024;
const REQUEST_ID = /^[A-Za-z0-9._:-]{1,128}$/;

/** Reads a request into an exchange. `malformed` says why it must not go any further. */
export function openExchange(
  req: IncomingMessage,
  res: ServerResponse,
  options: { expectsContinue: boolean; upgrade: string | null },
): { exchange: Exchange; malformed: MalformedKind | null } {
  const hosts = req.rawHeaders.filter(
    (_, i) => i % 2 === 1 && req.rawHeaders[i - 1]!.toLowerCase() === "host",
  );
  // RFC 9112 section 3.2.2: an absolute target overrides the Host header.
  const absolute = /^https?:\/\/([^/?#]*)([^#]*)$/i.exec(req.url ?? "");
  const host = absolute?.[1] ?? hosts[0] ?? "";
  const rest = absolute ? absolute[2]! : (req.url ?? "");
  const target = absolute && !rest.startsWith("/") ? `/${rest}` : rest;
  const hostname = normalizeHostname(host);
  const givenId = req.headers["x-request-id"];
  const exchange: Exchange = {
    ...options,
    req,
    res,
    requestId: typeof givenId === "string" && REQUEST_ID.test(givenId) ? givenId : unguessableId(),
    startedAt: new Date(),
    startedMs: performance.now(),
    bytesWrittenBefore: req.socket.bytesWritten,
    hostname: hostname ?? "",
    host,
    target,
    fill: null,
    route: null,
    guard: null,
    failedReleaseId: null,
    body: null,
  };
  const isBad = hosts.length !== 1 || hostname === null || !target.startsWith("/") || !isFramed(req);
  return { exchange, malformed: isTooLarge(req) ? "headers_too_large" : isBad ? "bad_request" : null };
}

/** Other encodings than chunked, and any in HTTP/1.0, are read differently by different servers. */
function isFramed(req: IncomingMessage): boolean {
  const encoding = req.headers["transfer-encoding"];
  if (encoding === undefined) return true;
  return (
    encoding.toLowerCase() === "chunked" &&
    req.httpVersion === "1.1" &&
    req.headers["content-length"] === undefined
  );
}

function isTooLarge(req: IncomingMessage): boolean {
  let bytes = (req.url ?? "").length;
  for (const part of req.rawHeaders) bytes += part.length + 2;
  return bytes > MAX_HEADER_BYTES;
}
