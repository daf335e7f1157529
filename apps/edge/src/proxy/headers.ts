import type { IncomingMessage } from "node:http";
import type { Exchange } from "../exchange.ts";
import { headersForApp, headersFromApp, isIdentityHeader, upgradeHeadersFromApp } from "../firewall/index.ts";

/** Tells the agent of a sandbox that a request came from outside, by the sandbox's own host name. */
export const publicDoorHeader = "x-public-door";

/** RFC 9110 section 7.6.1, with the older names that still occur. */
const hopByHop = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "proxy-authenticate",
  "proxy-authorization",
  "te",
  "transfer-encoding",
  "upgrade",
]);

/** Set by the edge alone, or answered by it; so is all that says who a client is. */
const ownedByEdge = new Set(["host", "expect", publicDoorHeader]);

/** Naming these in Connection must not strip them: they frame or address the message. */
const neverNamed = new Set(["content-length", "host", "close", "keep-alive"]);

export interface ForwardedFacts {
  /** Port in public URLs; null: the one in the Host header, or the listening one. */
  readonly publicPort: number | null;
  /** A proxy of the operator stands in front: its X-Forwarded-* are believed. */
  readonly trustForwarded: boolean;
}

/** Tells our own front to close the client's connection: what `Connection` says is between the two of us. */
export const closeHeader = "x-edge-close";

/** Connections of our own front on this machine, which alone reaches them: it says who the client is. */
const fronted = new WeakSet<object>();
export const markFronted = (socket: object): void => void fronted.add(socket);
export const isFronted = ({ socket }: { readonly socket: object }): boolean => fronted.has(socket);
const single = (value: string | string[] | undefined): string => (typeof value === "string" ? value : "");

/** Headers towards an app, as flat name-value pairs. */
export function upstreamHeaders(
  exchange: Exchange,
  facts: ForwardedFacts,
  rewriteHost: string | null,
  dropped: ReadonlySet<string> = new Set(),
): string[] {
  const { req, guard } = exchange;
  const named = namedInConnection(req.rawHeaders);
  const kept: string[] = [];
  for (let i = 0; i < req.rawHeaders.length; i += 2) {
    const name = req.rawHeaders[i]!.toLowerCase();
    if (hopByHop.has(name) || ownedByEdge.has(name) || named.has(name) || dropped.has(name)) continue;
    if (isIdentityHeader(name)) continue;
    kept.push(req.rawHeaders[i]!, req.rawHeaders[i + 1]!);
  }
  return [
    ...["host", rewriteHost ?? exchange.host],
    ...(guard ? headersForApp(kept, guard) : kept),
    ...forwardedHeaders(exchange, facts),
    ...["x-request-id", exchange.requestId],
  ];
}

/** Scheme of the client's own request. */
export function schemeOf(req: IncomingMessage, facts: ForwardedFacts): string {
  const forwarded = req.headers["x-forwarded-proto"];
  if ((facts.trustForwarded || isFronted(req)) && (forwarded === "https" || forwarded === "http"))
    return forwarded;
  return isEncrypted(req) ? "https" : "http";
}

const isEncrypted = (req: IncomingMessage): boolean => "encrypted" in req.socket;

function forwardedHeaders(exchange: Exchange, facts: ForwardedFacts): string[] {
  const { req } = exchange;
  if (isFronted(req))
    return ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"].flatMap(
      (name) => [name, single(req.headers[name])],
    );
  const client = clientAddress(req);
  const trusted = (name: string): string | null => {
    const value = req.headers[name];
    return facts.trustForwarded && typeof value === "string" && value !== "" ? value : null;
  };
  const before = trusted("x-forwarded-for");
  const portInHost = /:(\d{1,5})$/.exec(exchange.host)?.[1];
  // The public port is that of HTTP: who came by TLS came by another one.
  const publicPort = isEncrypted(req) ? null : facts.publicPort;
  const ownPort = String(publicPort ?? portInHost ?? (isEncrypted(req) ? 443 : (req.socket.localPort ?? 80)));
  return [
    "x-forwarded-for",
    before ? `${before}, ${client}` : client,
    "x-forwarded-proto",
    trusted("x-forwarded-proto") ?? (isEncrypted(req) ? "https" : "http"),
    "x-forwarded-host",
    trusted("x-forwarded-host") ?? exchange.host,
    "x-forwarded-port",
    trusted("x-forwarded-port") ?? ownPort,
  ];
}

export function clientAddress(req: IncomingMessage): string {
  if (isFronted(req)) return single(req.headers["x-forwarded-for"]).split(",").at(-1)!.trim();
  return (req.socket.remoteAddress ?? "unknown").replace(/^::ffff:/, "");
}

/**
 * Headers towards the client: the app's own, less those of the upstream connection.
 *
 * @param raw flat name-value pairs as undici hands them out
 */
export function clientHeaders(exchange: Exchange, raw: readonly (Buffer | string)[]): string[] {
  const text = toText(raw);
  const named = namedInConnection(text);
  const chunked = text.some((part, i) => i % 2 === 0 && part.toLowerCase() === "transfer-encoding");
  const headers: string[] = [];
  for (let i = 0; i < text.length; i += 2) {
    const name = text[i]!.toLowerCase();
    if (hopByHop.has(name) || named.has(name)) continue;
    // RFC 9112 section 6.3: Transfer-Encoding wins, and the length must not travel on.
    if (chunked && name === "content-length") continue;
    headers.push(text[i]!, text[i + 1]!);
  }
  const { guard, hostname } = exchange;
  return guard ? headersFromApp(headers, hostname, guard) : headers;
}

/** Headers with which an app takes up another protocol; all of its connection belong to the client. */
export function clientUpgradeHeaders(exchange: Exchange, raw: readonly (Buffer | string)[]): string[] {
  const { guard, hostname } = exchange;
  return guard ? upgradeHeadersFromApp(toText(raw), hostname, guard) : toText(raw);
}

const toText = (raw: readonly (Buffer | string)[]): string[] =>
  raw.map((part) => (typeof part === "string" ? part : part.toString("latin1")));

function namedInConnection(raw: readonly string[]): Set<string> {
  const named = new Set<string>();
  for (let i = 0; i < raw.length; i += 2) {
    if (raw[i]!.toLowerCase() !== "connection") continue;
    for (const token of raw[i + 1]!.split(",")) {
      const name = token.trim().toLowerCase();
      if (!neverNamed.has(name)) named.add(name);
    }
  }
  return named;
}
