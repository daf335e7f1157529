import { createHash, timingSafeEqual } from "node:crypto";
import type { Exchange } from "./exchange.ts";

/** Query parameter that carries the token of a private preview; fixed by the public contract. */
const PARAMETER = "ms";
const COOKIE = "preview_access";

/** A token that opens the preview until its time, milliseconds since 1970. */
export interface Grant {
  readonly sha256: string;
  readonly until: number;
}

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
 * @param options.grants further tokens, each good until its own time
 * @param keep true when the client is a browser that opens a page: only then a redirect may answer
 */
export function accessOf(
  exchange: Exchange,
  accessSha256: string | null,
  options: { keep: boolean; isSecure: boolean; grants?: readonly Grant[] | undefined },
): Access {
  if (accessSha256 === null) return { type: "granted" };
  const opens = (token: string): boolean =>
    matches(token, accessSha256) ||
    (options.grants ?? []).some((grant) => grant.until > Date.now() && matches(token, grant.sha256));
  const url = new URL(exchange.target, "http://preview.invalid");
  const given = url.searchParams.get(PARAMETER);
  if (given !== null && opens(given)) {
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
  return kept !== null && opens(kept) ? { type: "granted" } : { type: "denied" };
}
