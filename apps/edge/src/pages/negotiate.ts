import type { IncomingMessage } from "node:http";
import { accepted } from "./accept.ts";

/**
 * In which form a page is told. A browser must never get HTML where it wants a script, a style or a
 * picture: what it then reports (a syntax error, a broken type) hides what is the matter.
 */
export type Form =
  | { readonly type: "html" }
  | { readonly type: "problem"; readonly contentType: string }
  /** One event of a stream of events, whose client reads nothing else. */
  | { readonly type: "event" }
  | { readonly type: "image" }
  /** Nothing but the content type that was asked for. */
  | { readonly type: "empty"; readonly contentType: string };

const types = {
  script: "text/javascript; charset=utf-8",
  style: "text/css; charset=utf-8",
  font: "font/woff2",
  audio: "audio/mpeg",
  video: "video/mp4",
  track: "text/vtt; charset=utf-8",
  manifest: "application/manifest+json",
  wasm: "application/wasm",
} as const;
type Asset = keyof typeof types | "image";

/** By `Sec-Fetch-Dest`. */
const destinations: Record<string, Asset> = {
  script: "script",
  worker: "script",
  sharedworker: "script",
  serviceworker: "script",
  audioworklet: "script",
  paintworklet: "script",
  style: "style",
  xslt: "style",
  image: "image",
  font: "font",
  audio: "audio",
  video: "video",
  track: "track",
  manifest: "manifest",
};

const documents = new Set(["document", "iframe", "frame", "embed", "object", "fencedframe"]);

/** By the ending of the path, for who does not say what it fetches for. */
const extensions: Record<string, Asset> = {
  js: "script",
  mjs: "script",
  cjs: "script",
  jsx: "script",
  ts: "script",
  tsx: "script",
  css: "style",
  png: "image",
  jpg: "image",
  jpeg: "image",
  gif: "image",
  webp: "image",
  avif: "image",
  svg: "image",
  ico: "image",
  bmp: "image",
  woff: "font",
  woff2: "font",
  ttf: "font",
  otf: "font",
  mp3: "audio",
  ogg: "audio",
  wav: "audio",
  mp4: "video",
  webm: "video",
  vtt: "track",
  webmanifest: "manifest",
  wasm: "wasm",
};

const formOf = (asset: Asset): Form =>
  asset === "image" ? { type: "image" } : { type: "empty", contentType: types[asset] };

const problem = (contentType = "application/problem+json"): Form => ({
  type: "problem",
  contentType: `${contentType}; charset=utf-8`,
});

/** Only who says text/html gets HTML. Accepting anything is an API client. */
export function negotiate(req: Pick<IncomingMessage, "headers" | "url">): Form {
  const { headers } = req;
  // Status and body of a refused upgrade are all that its client can read; a redirect would break it.
  if (headers["sec-websocket-key"] !== undefined || headers["sec-fetch-dest"] === "websocket")
    return problem("application/json");
  const destination = String(headers["sec-fetch-dest"] ?? "");
  const asset = destinations[destination];
  if (asset) return formOf(asset);
  const entries = accepted(headers.accept).filter(({ quality }) => quality > 0);
  const ranked = entries.map(({ value }) => value);
  const html = ranked.findIndex((type) => type === "text/html" || type === "application/xhtml+xml");
  if (documents.has(destination) && (html >= 0 || ranked.includes("*/*"))) return { type: "html" };
  if (ranked[0] === "text/event-stream") return { type: "event" };
  const ending = /\.([a-z0-9]{1,12})$/i.exec((req.url ?? "").split("?", 1)[0]!)?.[1]?.toLowerCase() ?? "";
  const byEnding = extensions[ending];
  if (byEnding) return formOf(byEnding);
  const json = ranked.findIndex((type) => /^application\/(?:[a-z.-]+\+)?json$/.test(type));
  if (html >= 0 && (json < 0 || html < json)) return { type: "html" };
  if (json >= 0) return problem(ranked.includes("application/json") ? "application/json" : undefined);
  const first = ranked[0] ?? "";
  if (first.startsWith("image/")) return { type: "image" };
  if (first === "text/css") return formOf("style");
  if (first.endsWith("/javascript")) return formOf("script");
  return problem();
}

export function acceptsHtml(req: Pick<IncomingMessage, "headers" | "url">): boolean {
  return negotiate(req).type === "html";
}
