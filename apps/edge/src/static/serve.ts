import { open, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { faultPoint } from "@platform/daemon";
import type { Exchange } from "../exchange.ts";
import { acceptsHtml } from "../pages/index.ts";
import type { StaticBundle, StaticBundles, StaticFile } from "./bundles.ts";
import { cacheControlOf, contentTypeOf, matchesTag, parseRange } from "./file-headers.ts";
import { locate } from "./locate.ts";

/** What is left for the caller to answer with a page. */
export type ServeResult = "sent" | "missing" | "refused" | "method_not_allowed";

export interface ServeOptions {
  readonly digest: string;
  readonly spaFallback: boolean;
}

/**
 * Serves one file of a bundle.
 *
 * @throws ArtifactError if the bundle cannot be had
 */
export async function serveStatic(
  exchange: Exchange,
  bundles: StaticBundles,
  { digest, spaFallback }: ServeOptions,
): Promise<ServeResult> {
  const { req, res } = exchange;
  if (req.method !== "GET" && req.method !== "HEAD") return "method_not_allowed";
  const bundle = await bundles.open(digest);
  const isNavigation = req.headers["sec-fetch-mode"] === "navigate" || acceptsHtml(req);
  const located = locate(bundle, exchange.target, { spaFallback, isNavigation });
  if (located.type === "redirect") {
    res.writeHead(301, { location: located.location, "cache-control": "no-cache", "content-length": "0" });
    res.end();
    return "sent";
  }
  if (located.type !== "file") return located.type;
  const entry = bundle.files.get(located.path)!;
  const file = await openFile(bundles, digest, bundle, located.path);
  try {
    await sendFile(exchange, file, entry, located.path, located.status);
  } finally {
    await file.close();
  }
  return "sent";
}

/** The unpacked folder may have been collected since its index was read; it is unpacked again, once. */
async function openFile(
  bundles: StaticBundles,
  digest: string,
  bundle: StaticBundle,
  path: string,
): Promise<FileHandle> {
  try {
    return await open(join(bundle.folder, path), "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    bundles.forget(digest);
    const again = await bundles.open(digest);
    return open(join(again.folder, path), "r");
  }
}

async function sendFile(
  { req, res }: Exchange,
  file: FileHandle,
  { size, sha256 }: StaticFile,
  path: string,
  status: 200 | 404,
): Promise<void> {
  const etag = `"${sha256}"`;
  const common = { etag, "cache-control": cacheControlOf(path, status) };
  if (status === 200 && matchesTag(req.headers["if-none-match"], etag)) {
    res.writeHead(304, common);
    res.end();
    return;
  }
  const ifRange = req.headers["if-range"];
  const mayRange = status === 200 && req.method === "GET" && (ifRange === undefined || ifRange === etag);
  const range = mayRange ? parseRange(req.headers.range, size) : null;
  if (range === "unsatisfiable") {
    res.writeHead(416, { "content-range": `bytes */${size}`, "content-length": "0" });
    res.end();
    return;
  }
  const { start, end } = range ?? { start: 0, end: size - 1 };
  faultPoint("edge.static.before-send");
  res.writeHead(range ? 206 : status, {
    ...common,
    "content-type": contentTypeOf(path),
    "content-length": String(end - start + 1),
    "accept-ranges": "bytes",
    ...(range ? { "content-range": `bytes ${start}-${end}/${size}` } : {}),
  });
  if (req.method === "HEAD" || size === 0) {
    res.end();
    return;
  }
  await pipeline(file.createReadStream({ start, end, autoClose: false }), res);
}
