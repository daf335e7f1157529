import { createHash, timingSafeEqual } from "node:crypto";
import type { Exchange } from "./exchange.ts";

/** Query parameter that carries the token of a private preview; fixed by the public contract. */
const PARAMETER = "ms";
const COOKIE = "preview_access";

const matches = (token: string, sha256: string): boolean =>
  timingSafeEqual(createHash("sha256").update(token).digest(), Buffer.from(sha256, "hex"));

function fromCookie(header: string | undefined): string | null {
  for (const part of header?.split(";") ?? []) {
    const [name, ...value] = part.trim().split("=");
    if (name === COOKIE) return value.join("=");
  }
  return null;
}

export type Access =
  | { readonly type: "granted" }
  | { readonly type: "denied" }
  /** The link is opened for the first time: keep the token as a cookie and go to the address without it. */
  | { readonly type: "keep"; readonly location: string; readonly cookie: string };

/**
 * Whether a visitor may see a private preview.
 *
 * @param accessSha256 hexadecimal SHA-256 of the token; null: everybody may
 * @param keep true when the client is a browser that opens a page: only then a redirect may answer
 */
export function accessOf(
  exchange: Exchange,
  accessSha256: string | null,
  options: { keep: boolean; isSecure: boolean },
): Access {
  if (accessSha256 === null) return { type: "granted" };
  const url = new URL(exchange.target, "http://preview.invalid");
  const given = url.searchParams.get(PARAMETER);
  if (given !== null && matches(given, accessSha256)) {
    if (!options.keep) return { type: "granted" };
    url.searchParams.delete(PARAMETER);
    const secure = options.isSecure ? "; Secure" : "";
    return {
      type: "keep",
      location: url.pathname + url.search,
      cookie: `${COOKIE}=${given}; Path=/; HttpOnly; SameSite=Lax${secure}`,
    };
  }
  const kept = fromCookie(exchange.req.headers.cookie);
  return kept !== null && matches(kept, accessSha256) ? { type: "granted" } : { type: "denied" };
}
