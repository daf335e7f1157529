import { PlatformError } from "@platform/contract";

const invalid = (why: string) =>
  new PlatformError("INVALID_PATH", `The object key ${why}. Use another key.`, { errors: { key: [why] } });

/** @throws PlatformError INVALID_PATH */
export function checkKey(key: string): string {
  if (key === "") throw invalid("is empty");
  if (Buffer.byteLength(key) > 1024) throw invalid("is longer than 1024 bytes");
  if (key.includes("\0")) throw invalid("holds a null character");
  if (key.split("/").some((segment) => segment === "..")) throw invalid('has a segment ".."');
  return key;
}

/**
 * The key in a request's path, decoded once: a client may send its slashes bare or as `%2F`.
 *
 * @throws PlatformError INVALID_PATH
 */
export function keyOf(url: string): string {
  const path = url.split("?")[0]!;
  const mark = "/objects/";
  const encoded = path.slice(path.indexOf(mark) + mark.length);
  try {
    return checkKey(decodeURIComponent(encoded));
  } catch (error) {
    if (error instanceof URIError) throw invalid("is not encoded as UTF-8");
    throw error;
  }
}
