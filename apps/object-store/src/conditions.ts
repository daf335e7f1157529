import type { IncomingMessage } from "node:http";
import { S3Error } from "./s3-error.ts";

/** @param header list of entity tags, or `*` */
export const matchesTag = (header: string, etag: string): boolean =>
  header.split(",").some((item) => {
    const tag = item.trim().replace(/^W\//, "").replaceAll('"', "");
    return tag === "*" || tag === etag;
  });

/** HTTP dates count whole seconds. */
const seconds = (date: Date) => Math.floor(date.getTime() / 1000);

function parseDate(text: string | string[] | undefined): number | null {
  const ms = Date.parse(String(text ?? ""));
  return Number.isNaN(ms) ? null : Math.floor(ms / 1000);
}

/**
 * @returns whether the client's copy is current
 * @throws S3Error PreconditionFailed
 * @see https://www.rfc-editor.org/rfc/rfc9110#section-13.2.2
 */
export function notModified(request: IncomingMessage, object: { etag: string; modifiedAt: Date }): boolean {
  const { headers } = request;
  const ifMatch = headers["if-match"];
  const modified = seconds(object.modifiedAt);
  if (ifMatch !== undefined) {
    if (!matchesTag(ifMatch, object.etag)) throw new S3Error("PreconditionFailed");
  } else {
    const unmodifiedSince = parseDate(headers["if-unmodified-since"]);
    if (unmodifiedSince !== null && modified > unmodifiedSince) throw new S3Error("PreconditionFailed");
  }
  const ifNoneMatch = headers["if-none-match"];
  if (ifNoneMatch !== undefined) return matchesTag(ifNoneMatch, object.etag);
  const modifiedSince = parseDate(headers["if-modified-since"]);
  return modifiedSince !== null && modified <= modifiedSince;
}

/**
 * @returns first and last byte, `null` for the whole: also for many ranges and for what is no range
 * @throws S3Error InvalidRange
 */
export function parseRange(header: string | undefined, sizeBytes: number): [number, number] | null {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec((header ?? "").trim());
  if (!match || (match[1] === "" && match[2] === "")) return null;
  if (match[1] === "") {
    const length = Math.min(Number(match[2]), sizeBytes);
    if (length === 0) throw new S3Error("InvalidRange");
    return [sizeBytes - length, sizeBytes - 1];
  }
  const first = Number(match[1]);
  const last = match[2] === "" ? sizeBytes - 1 : Math.min(Number(match[2]), sizeBytes - 1);
  if (match[2] !== "" && Number(match[2]) < first) return null;
  if (first >= sizeBytes) throw new S3Error("InvalidRange");
  return [first, last];
}
