import type { IncomingMessage } from "node:http";

/** `empty` carries a content type only: a browser must never get HTML where it wants a script. */
export type Form = { type: "html" } | { type: "problem" } | { type: "empty"; contentType: string };

const destinations: Record<string, string> = {
  script: "text/javascript; charset=utf-8",
  worker: "text/javascript; charset=utf-8",
  sharedworker: "text/javascript; charset=utf-8",
  serviceworker: "text/javascript; charset=utf-8",
  style: "text/css; charset=utf-8",
  image: "image/svg+xml",
  font: "font/woff2",
  audio: "audio/mpeg",
  video: "video/mp4",
  track: "text/vtt; charset=utf-8",
  manifest: "application/manifest+json",
};

/** Only who says text/html gets HTML. Accepting anything is an API client. */
export function negotiate(req: IncomingMessage): Form {
  const destination = String(req.headers["sec-fetch-dest"] ?? "");
  const contentType = destinations[destination];
  if (contentType) return { type: "empty", contentType };
  const accepted = acceptedTypes(req.headers.accept ?? "");
  if (accepted.includes("text/html")) return { type: "html" };
  const first = accepted[0] ?? "";
  if (first.startsWith("image/")) return { type: "empty", contentType: destinations["image"]! };
  if (first === "text/css") return { type: "empty", contentType: destinations["style"]! };
  if (first.endsWith("/javascript")) return { type: "empty", contentType: destinations["script"]! };
  return { type: "problem" };
}

export function acceptsHtml(req: IncomingMessage): boolean {
  return negotiate(req).type === "html";
}

/** Media types in the order given, without those refused by `q=0`. */
function acceptedTypes(accept: string): string[] {
  return accept
    .split(",")
    .map((part) => part.split(";").map((piece) => piece.trim().toLowerCase()))
    .filter(([, ...parameters]) => !parameters.some((parameter) => /^q=0(\.0*)?$/.test(parameter)))
    .map(([type]) => type ?? "");
}
