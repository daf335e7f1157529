import { createHash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pipeline, type Duplex, type Readable, type Writable } from "node:stream";
import {
  constants,
  createBrotliCompress,
  createBrotliDecompress,
  createGunzip,
  createGzip,
  createZstdCompress,
  createZstdDecompress,
} from "node:zlib";
import type { Route } from "@platform/edge-api";
import type { Exchange } from "../exchange.ts";
import { acceptsHtml } from "../pages/index.ts";
import type { Rewrite, Rewritten } from "../proxy/index.ts";
import type { ConsoleLog } from "./console-log.ts";
import { InjectStream } from "./inject.ts";
import { verdictOf } from "./policy.ts";

/** Reserved on hosts of previews whose console is captured; the script finds its door by its own address. */
export const scriptPath = "/_edge/console.js";
export const doorPath = "/_edge/console";

export const browserScript = readFileSync(join(import.meta.dirname, "browser-script.js"));
const version = createHash("sha256").update(browserScript).digest("hex").slice(0, 12);

const documents = new Set(["document", "iframe", "frame", "embed", "object"]);

/** Whether a browser opens a page with this request; a script that fetches HTML gets it as it is. */
export function opensPage(req: IncomingMessage): boolean {
  if (req.method !== "GET" && req.method !== "POST") return false;
  if (!acceptsHtml(req)) return false;
  const destination = req.headers["sec-fetch-dest"];
  if (destination !== undefined) return documents.has(String(destination));
  return req.headers["x-requested-with"] === undefined && req.headers["hx-request"] === undefined;
}

/** They describe the body as the app sent it, byte by byte. */
const ofTheBytes = new Set([
  "content-length",
  "content-md5",
  "digest",
  "content-digest",
  "repr-digest",
  "accept-ranges",
]);

/** The sandbox whose previews' pages are listened to; null: this route's are not. */
export function listenedSandbox({ target, sandboxId }: Route): string | null {
  return (target.type === "boxes" || target.type === "wake") && target.console ? sandboxId : null;
}

/**
 * Puts the script into answers that are pages of a preview. Why a page stays as it is, is said in the log.
 *
 * @param scheme that of the client's own request
 */
export function captureIn(
  exchange: Exchange,
  route: Route,
  { scheme, log }: { scheme: string; log: ConsoleLog },
): Rewrite | null {
  const sandboxId = listenedSandbox(route);
  if (sandboxId === null || exchange.upgrade !== null || !opensPage(exchange.req)) return null;
  const page = exchange.target.split("?", 1)[0]!.slice(0, 1_024);
  const notice = (reason: string) => log.notice(sandboxId, exchange.hostname, page, reason);
  return (status, headers): Rewritten | null => {
    const all = (name: string) =>
      headers.filter((_, i) => i % 2 === 1 && headers[i - 1]!.toLowerCase() === name);
    const type = all("content-type")[0] ?? "";
    if (!/^\s*text\/html\b/i.test(type) || /charset\s*=\s*"?utf-(?:16|32)/i.test(type)) return null;
    // Without a body, a part of one, or the word that the client's copy is still good.
    if (status === 204 || status === 205 || status === 206 || status === 304) return null;
    if (all("content-length")[0] === "0") return null;
    if (/\bno-transform\b/i.test(all("cache-control").join(","))) {
      notice("it says Cache-Control: no-transform");
      return null;
    }
    const coding = codings[(all("content-encoding").join(",").trim() || "identity").toLowerCase()];
    if (!coding) {
      notice(`its Content-Encoding is ${all("content-encoding").join(", ").slice(0, 50)}`);
      return null;
    }
    const policies = [...all("content-security-policy"), ...all("content-security-policy-report-only")];
    const verdict = verdictOf(policies, scheme);
    if (verdict.type === "refused") {
      notice(verdict.reason);
      return null;
    }
    const nonce = verdict.nonce === null ? "" : ` nonce="${verdict.nonce}"`;
    const markup = `<script src="${scriptPath}?v=${version}"${nonce}></script>`;
    return { headers: headersOf(headers), ...streams(coding, markup) };
  };
}

/** A strong validator vouches for bytes, which are others now. */
function headersOf(headers: readonly string[]): string[] {
  const result: string[] = [];
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i]!.toLowerCase();
    const value = headers[i + 1]!;
    if (ofTheBytes.has(name)) continue;
    result.push(headers[i]!, name === "etag" && !/^\s*W\//.test(value) ? `W/${value.trim()}` : value);
  }
  return result;
}

interface Coding {
  readonly decode: () => Duplex;
  readonly encode: () => Duplex;
}

/** Each chunk is flushed, so that a page that comes in pieces still does. */
const gzip: Coding = {
  decode: () => createGunzip({ flush: constants.Z_SYNC_FLUSH }),
  encode: () => createGzip({ level: 4, flush: constants.Z_SYNC_FLUSH }),
};
const brotliFlush = { flush: constants.BROTLI_OPERATION_FLUSH };
const zstdFlush = { flush: constants.ZSTD_e_flush };
const codings: Readonly<Record<string, Coding | "identity" | undefined>> = {
  identity: "identity",
  gzip,
  "x-gzip": gzip,
  br: {
    decode: () => createBrotliDecompress(brotliFlush),
    encode: () => createBrotliCompress({ ...brotliFlush, params: { [constants.BROTLI_PARAM_QUALITY]: 4 } }),
  },
  zstd: { decode: () => createZstdDecompress(zstdFlush), encode: () => createZstdCompress(zstdFlush) },
};

function streams(coding: Coding | "identity", markup: string): { input: Writable; output: Readable } {
  const inject = new InjectStream(markup);
  if (coding === "identity") return { input: inject, output: inject };
  const input = coding.decode();
  const output = coding.encode();
  // A failure of one ends all: whoever reads the last one hears of it.
  pipeline(input, inject, output, () => undefined);
  return { input, output };
}
