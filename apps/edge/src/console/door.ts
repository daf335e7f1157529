import type { ConsoleEntry, Route } from "@platform/edge-api";
import { z } from "zod";
import type { Exchange } from "../exchange.ts";
import { browserScript, doorPath, listenedSandbox, scriptPath } from "./capture.ts";
import type { ConsoleLog } from "./console-log.ts";

const MAX_BODY = 64 * 1024;
const MAX_ENTRIES = 100;
const BODY_MS = 10_000;

const text = (most: number) => z.string().transform((given) => given.slice(0, most));
const optional = (most: number) => text(most).nullish().catch(null);
const place = z.int().min(0).max(100_000_000).nullish().catch(null);
const Said = z.object({
  level: z.enum(["error", "warn", "info", "log", "debug"]),
  kind: z.enum(["console", "exception", "rejection", "request", "resource"]),
  text: text(4_096),
  page: optional(1_024),
  source: optional(1_024),
  line: place,
  column: place,
  stack: optional(4_096),
  method: optional(20),
  status: z.int().min(0).max(999).nullish().catch(null),
});
const Body = z.object({
  entries: z.array(z.unknown()).max(MAX_ENTRIES),
  dropped: z.int().min(0).max(1_000_000).catch(0),
});

/**
 * Answers for the reserved paths of a preview. What a page says counts for the sandbox of the host name.
 *
 * @returns false when the request is for the app
 */
export async function serveConsole(exchange: Exchange, route: Route, log: ConsoleLog): Promise<boolean> {
  const sandboxId = listenedSandbox(route);
  if (sandboxId === null) return false;
  const path = exchange.target.split("?", 1)[0];
  if (exchange.upgrade !== null || (path !== scriptPath && path !== doorPath)) return false;
  // What a page that stands open reports is no use of the sandbox.
  if (exchange.route) exchange.route = { ...exchange.route, sandboxId: null };
  const method = exchange.req.method ?? "";
  if (path === scriptPath) {
    if (method === "GET" || method === "HEAD") sendScript(exchange, method);
    else answer(exchange, 405, { allow: "GET, HEAD" });
  } else if (method !== "POST") answer(exchange, 405, { allow: "POST" });
  else if (!isSameOrigin(exchange)) answer(exchange, 403);
  else {
    const status = await hear(exchange, sandboxId, log);
    if (status !== null) answer(exchange, status);
  }
  return true;
}

function sendScript({ res, requestId }: Exchange, method: string): void {
  res.writeHead(200, {
    "content-type": "text/javascript; charset=utf-8",
    "content-length": String(browserScript.length),
    // Its address names its version.
    "cache-control": "public, max-age=31536000, immutable",
    "x-content-type-options": "nosniff",
    "x-request-id": requestId,
  });
  res.end(method === "HEAD" ? undefined : browserScript);
}

function answer({ res, requestId }: Exchange, status: number, headers: Record<string, string> = {}): void {
  const length = status === 204 ? {} : { "content-length": "0" };
  res.writeHead(status, { ...headers, ...length, "cache-control": "no-store", "x-request-id": requestId });
  res.end();
}

/** A browser says where a page that posts is from; pages of other origins are not heard. */
function isSameOrigin({ req, host }: Exchange): boolean {
  const { origin } = req.headers;
  if (typeof origin !== "string" || !URL.canParse(origin)) return false;
  return new URL(origin).host === host.toLowerCase();
}

/** @returns the status to answer with; null when the client is gone */
async function hear(exchange: Exchange, sandboxId: string, log: ConsoleLog): Promise<number | null> {
  const { req, res, hostname, expectsContinue } = exchange;
  if (Number(req.headers["content-length"] ?? 0) > MAX_BODY) return 413;
  if (expectsContinue) res.writeContinue();
  const chunks: Buffer[] = [];
  let size = 0;
  const timer = setTimeout(() => req.destroy(), BODY_MS);
  try {
    for await (const chunk of req.iterator({ destroyOnReturn: false })) {
      size += (chunk as Buffer).length;
      if (size > MAX_BODY) return 413;
      chunks.push(chunk as Buffer);
    }
  } catch {
    return null; // The client left, or took too long.
  } finally {
    clearTimeout(timer);
  }
  const body = Body.safeParse(parse(Buffer.concat(chunks).toString("utf8")));
  if (!body.success) return 400;
  const at = new Date().toISOString();
  const entries = body.data.entries.flatMap((given): ConsoleEntry[] => {
    const said = Said.safeParse(given);
    if (!said.success) return [];
    const { page, source, line, column, stack, method, status, ...rest } = said.data;
    const orNull = <T>(value: T | null | undefined): T | null => value ?? null;
    return [
      {
        ...{ at, ...rest, page: orNull(page), source: orNull(source), line: orNull(line) },
        ...{ column: orNull(column), stack: orNull(stack), method: orNull(method), status: orNull(status) },
      },
    ];
  });
  log.take(sandboxId, hostname, entries, body.data.dropped);
  return 204;
}

function parse(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return null; // No body of ours: the schema refuses it.
  }
}
