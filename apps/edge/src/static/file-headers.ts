import mime from "mime";

const textual =
  /^(text\/|application\/(json|javascript|xml|manifest\+json|.*\+json|.*\+xml)$|image\/svg\+xml$)/;

/** Whether its bytes get fewer by an encoding. */
export function isCompressible(contentType: string): boolean {
  return /^(text\/|application\/(json|javascript|xml|wasm|manifest\+json|.*\+json|.*\+xml|vnd\.ms-fontobject)|image\/(svg\+xml|x-icon|vnd\.microsoft\.icon|bmp)|font\/(ttf|otf))/.test(
    contentType,
  );
}

export function contentTypeOf(path: string): string {
  const type = mime.getType(path) ?? "application/octet-stream";
  return textual.test(type) ? `${type}; charset=utf-8` : type;
}

/**
 * A name that carries a hash of its content never changes its meaning. Hexadecimal with a letter and a digit
 * (`app-4f3a9c1b.js`), or eight signs as Vite writes them (`index-BxY3k_9Z.js`); `report-20240101.js`
 * and `app-settings.js` are neither.
 */
export function isContentHashed(path: string): boolean {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const hex = /[-._]([0-9a-f]{8,64})(\.[a-z0-9]+)+$/.exec(name)?.[1];
  if (hex && /[a-f]/.test(hex) && /\d/.test(hex)) return true;
  const mixed = /[-.]([A-Za-z0-9_-]{8})(\.[a-z0-9]+)+$/.exec(name)?.[1];
  return mixed !== undefined && /\d/.test(mixed) && /[A-Z]/.test(mixed) && /[a-z]/.test(mixed);
}

export function cacheControlOf(path: string, status: number): string {
  const isPage = path.endsWith(".html") || path.endsWith(".htm");
  if (status === 200 && !isPage && isContentHashed(path)) return "public, max-age=31536000, immutable";
  return "no-cache";
}

/** @returns true if one of the listed tags is ours, by the weak comparison of RFC 9110 section 8.8.3.2 */
export function matchesTag(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false;
  if (header.trim() === "*") return true;
  return header.split(",").some((tag) => tag.trim().replace(/^W\//, "") === etag);
}

export interface ByteRange {
  /** First and last byte, both included. */
  readonly start: number;
  readonly end: number;
}

/**
 * One range of bytes. Several ranges, or another unit, are answered with the whole file, as RFC 9110
 * section 14.2 allows.
 *
 * @returns null to send everything, `unsatisfiable` for a 416
 */
export function parseRange(header: string | undefined, size: number): ByteRange | "unsatisfiable" | null {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header?.trim() ?? "");
  if (!match || (match[1] === "" && match[2] === "")) return null;
  if (match[1] === "") {
    const length = Math.min(Number(match[2]), size);
    return length === 0 ? "unsatisfiable" : { start: size - length, end: size - 1 };
  }
  const start = Number(match[1]);
  const end = match[2] === "" ? size - 1 : Math.min(Number(match[2]), size - 1);
  if (match[2] !== "" && Number(match[2]) < start) return null;
  return start >= size ? "unsatisfiable" : { start, end };
}
