import { createHash, timingSafeEqual } from "node:crypto";
import type { Exchange } from "./exchange.ts";
import { platformCookiePrefix } from "./firewall/index.ts";

/** Query parameter that carries the token of a private preview; fixed by the public contract. */
const PARAMETER = "ms";
const COOKIE = `${platformCookiePrefix}preview`;
/** What a page of another site, which has no cookie here, offers besides its own subprotocols. */
const PROTOCOL_PREFIX = "preview-access.";

/** A token that opens the preview until its time, milliseconds since 1970. */
export interface Grant {
  readonly sha256: string;
  readonly until: number;
}

const matches = (token: string, sha256: string): boolean =>
  timingSafeEqual(createHash("sha256").update(token).digest(), Buffer.from(sha256, "hex"));

/** All values: a neighbour's page may have set one for the parent domain beside ours. */
function fromCookie(header: string | undefined, name: string): string[] {
  return (header?.split(";") ?? []).flatMap((part) => {
    const [key, ...value] = part.trim().split("=");
    return key === name ? [value.join("=")] : [];
  });
}

const protocolsOf = (exchange: Exchange): string[] =>
  String(exchange.req.headers["sec-websocket-protocol"] ?? "")
    .split(",")
    .map((part) => part.trim());

export type Access =
  /** `target` is what the app sees: the address without the token. */
  | { readonly type: "granted"; readonly target: string; readonly tokenProtocol: string | null }
  | { readonly type: "denied" }
  /** The link is opened for the first time: keep the token as a cookie and go to the address without it. */
  | { readonly type: "keep"; readonly location: string; readonly cookie: string };

/** The parts of a query that carry the token, apart from all others, which stay as they were written. */
function splitTarget(target: string): { tokens: string[]; rest: string } {
  const mark = target.indexOf("?");
  if (mark < 0) return { tokens: [], rest: target };
  const tokens: string[] = [];
  const kept = target
    .slice(mark + 1)
    .split("&")
    .filter((part) => {
      const [[name, value] = ["", ""]] = [...new URLSearchParams(part)];
      if (name === PARAMETER) tokens.push(value);
      return name !== PARAMETER;
    });
  const path = target.slice(0, mark);
  return { tokens, rest: kept.length === 0 ? path : `${path}?${kept.join("&")}` };
}

/**
 * Whether a visitor may see a private preview.
 *
 * @param accessSha256 hexadecimal SHA-256 of the token; null: everybody may
 * @param options.grants further tokens, each good until its own time
 * @param options.keep true when the client is a browser that opens a page: only then a redirect may answer
 */
export function accessOf(
  exchange: Exchange,
  accessSha256: string | null,
  options: { keep: boolean; isSecure: boolean; grants?: readonly Grant[] | undefined },
): Access {
  const { target, req, upgrade } = exchange;
  if (accessSha256 === null) return { type: "granted", target, tokenProtocol: null };
  const opens = (token: string): boolean =>
    matches(token, accessSha256) ||
    (options.grants ?? []).some((grant) => grant.until > Date.now() && matches(token, grant.sha256));
  const { tokens, rest } = splitTarget(target);
  const given = tokens.find(opens);
  if (given !== undefined) {
    if (!options.keep) return { type: "granted", target: rest, tokenProtocol: null };
    // Two slashes would lead to another host.
    return {
      type: "keep",
      location: rest.replace(/^[/\\]+/, "/"),
      cookie: cookieOf(given, options.isSecure),
    };
  }
  const protocol = upgrade
    ? protocolsOf(exchange).find(
        (part) => part.startsWith(PROTOCOL_PREFIX) && opens(part.slice(PROTOCOL_PREFIX.length)),
      )
    : undefined;
  if (protocol !== undefined) return { type: "granted", target, tokenProtocol: protocol };
  const kept = fromCookie(req.headers.cookie, options.isSecure ? `__Host-${COOKIE}` : COOKIE);
  return kept.some(opens) ? { type: "granted", target, tokenProtocol: null } : { type: "denied" };
}

/**
 * For this host name only, out of reach of scripts. Under TLS also in a frame of the tenant's dashboard,
 * which may be another site: each site that frames the preview has a cookie of its own. Without TLS browsers
 * allow that to no cookie, and a frame works only within one site.
 */
const cookieOf = (token: string, isSecure: boolean): string =>
  isSecure
    ? `__Host-${COOKIE}=${token}; Path=/; Secure; HttpOnly; SameSite=None; Partitioned`
    : `${COOKIE}=${token}; Path=/; HttpOnly; SameSite=Lax`;
