import { open, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { faultPoint } from "@platform/daemon";
import type { Exchange } from "../exchange.ts";
import { acceptsHtml } from "../pages/index.ts";
import type { StaticBundles } from "./bundles.ts";
import { acceptedEncodings, type Encoding, type PlainFile } from "./encodings.ts";
import { clientCacheHeader, frontCacheControl, isFillOf } from "./fills.ts";
import { cacheControlOf, contentTypeOf, isCompressible, matchesTag, parseRange } from "./file-headers.ts";
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
  const { path, status, isFallback = false } = located;
  const { size, sha256 } = bundle.files.get(path)!;
  const file = { home: bundle.home, path: join(bundle.folder, path), sha256, size };
  // The front finds it by its address alone; and the release may have changed since it asked.
  const isFill = status === 200 && !isFallback && isFillOf(exchange.fill, { digest, spaFallback });
  await sendFile(exchange, bundles, { file, digest, name: path, status, isFill });
  return "sent";
}

interface Asked {
  readonly file: PlainFile;
  readonly digest: string;
  /** Path in the bundle. */
  readonly name: string;
  readonly status: 200 | 404;
  /** The front may keep the answer. */
  readonly isFill: boolean;
}

/** One form of a file: with its own strong tag, as RFC 9110 section 8.8.3.3 asks for. */
interface Form {
  readonly path: string;
  readonly size: number;
  readonly etag: string;
  readonly encoding: Encoding | null;
}

async function sendFile(exchange: Exchange, bundles: StaticBundles, asked: Asked): Promise<void> {
  const { req, res } = exchange;
  const { name, status, file } = asked;
  const type = contentTypeOf(name);
  const isEncodable = isCompressible(type);
  // A part is a part of the plain form, which every client understands and which is always there.
  const accepted =
    isEncodable && req.headers.range === undefined ? acceptedEncodings(req.headers["accept-encoding"]) : [];
  const form = formOf(bundles, file, accepted);
  const isFill = asked.isFill && bundles.encodings.isSettled(file, accepted);
  const common: Record<string, string> = {
    etag: form.etag,
    "cache-control": isFill ? frontCacheControl : cacheControlOf(name, status),
    ...(isFill ? { [clientCacheHeader]: cacheControlOf(name, status) } : {}),
    ...(isEncodable ? { vary: "accept-encoding" } : {}),
  };
  if (status === 200 && matchesTag(req.headers["if-none-match"], form.etag)) {
    res.writeHead(304, common);
    res.end();
    return;
  }
  // There is no Last-Modified: files of a release have no time that means anything. So no date matches.
  const ifRange = req.headers["if-range"];
  const mayRange = status === 200 && req.method === "GET" && (ifRange === undefined || ifRange === form.etag);
  const range = mayRange ? parseRange(req.headers.range, form.size) : null;
  if (range === "unsatisfiable") {
    res.writeHead(416, { ...common, "content-range": `bytes */${form.size}`, "content-length": "0" });
    res.end();
    return;
  }
  const { start, end } = range ?? { start: 0, end: form.size - 1 };
  faultPoint("edge.static.before-send");
  const head = {
    ...common,
    "content-type": type,
    "content-length": String(end - start + 1),
    "accept-ranges": "bytes",
    ...(form.encoding ? { "content-encoding": form.encoding } : {}),
    ...(range ? { "content-range": `bytes ${start}-${end}/${form.size}` } : {}),
  };
  if (req.method === "HEAD" || form.size === 0) {
    res.writeHead(status, head);
    res.end();
    return;
  }
  const hot = bundles.hot.get(form.etag);
  if (hot) {
    res.writeHead(range ? 206 : status, head);
    res.end(range ? hot.subarray(start, end + 1) : hot);
    return;
  }
  const source = await openForm(bundles, asked, form);
  // Another form is there, or at last the plain one.
  if (!source) return sendFile(exchange, bundles, asked);
  try {
    const content = await bundles.hot.load(form.etag, source.path, form.size);
    res.writeHead(range ? 206 : status, head);
    if (content) res.end(range ? content.subarray(start, end + 1) : content);
    else await pipeline(source.handle.createReadStream({ start, end, autoClose: false }), res);
  } finally {
    await source.handle.close();
  }
}

function formOf(bundles: StaticBundles, file: PlainFile, accepted: readonly Encoding[]): Form {
  const encoded = bundles.encodings.pick(file, accepted);
  const { encoding = null, file: source = file } = encoded ?? {};
  const etag = encoding ? `"${file.sha256}-${encoding}"` : `"${file.sha256}"`;
  return { path: source.path, size: source.size, etag, encoding };
}

/**
 * The unpacked folder may have been collected since its index was read; it is unpacked again, once.
 *
 * @returns null for an encoded form that is gone
 */
async function openForm(
  bundles: StaticBundles,
  { file, digest, name }: Asked,
  { path, encoding }: Form,
): Promise<{ handle: FileHandle; path: string } | null> {
  try {
    return { handle: await open(path, "r"), path };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    if (encoding) bundles.encodings.forget(file.sha256, encoding);
    bundles.forget(digest);
    const { folder } = await bundles.open(digest);
    if (encoding) return null;
    return { handle: await open(join(folder, name), "r"), path: join(folder, name) };
  }
}
