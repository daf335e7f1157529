import {
  constants,
  Http2ServerRequest,
  Http2ServerResponse,
  type IncomingHttpHeaders as IncomingHttp2Headers,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from "node:http2";
import type { IncomingHttpHeaders } from "node:http";
import type { ReadableOptions } from "node:stream";

/** What an upgrade to HTTP/2 in the clear is about; it may not be passed on (RFC 9113 section 8.2.2). */
const neverSent = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "transfer-encoding",
  "upgrade",
  "http2-settings",
  "te",
]);

/**
 * A request that came by HTTP/2 in the form that the rest of the edge reads: that of HTTP/1.1. The
 * authority becomes the Host header, the other pseudo headers are in `method` and `url` already, and a
 * body of unknown length is marked as chunked.
 */
export class TranslatedRequest extends Http2ServerRequest {
  constructor(
    stream: ServerHttp2Stream,
    headers: IncomingHttp2Headers,
    options: ReadableOptions,
    rawHeaders: readonly string[],
  ) {
    super(stream, headers, options, rawHeaders);
    const isOpenEnded =
      !(stream as ServerHttp2Stream & { readonly endAfterHeaders: boolean }).endAfterHeaders &&
      headers["content-length"] === undefined;
    const value = <T>(of: T) => ({ value: of, enumerable: true, writable: true });
    Object.defineProperties(this, {
      headers: value(translateHeaders(headers, isOpenEnded)),
      rawHeaders: value(translateRaw(headers[":authority"], rawHeaders, isOpenEnded)),
      httpVersion: value("1.1"),
      httpVersionMajor: value(1),
      httpVersionMinor: value(1),
    });
  }
}

function translateHeaders(given: IncomingHttp2Headers, isOpenEnded: boolean): IncomingHttpHeaders {
  const headers: IncomingHttpHeaders = {};
  for (const [name, value] of Object.entries(given)) if (!name.startsWith(":")) headers[name] = value;
  const host = given[":authority"] ?? given.host;
  if (host !== undefined) headers.host = host;
  if (isOpenEnded) headers["transfer-encoding"] = "chunked";
  return headers;
}

function translateRaw(
  authority: string | undefined,
  given: readonly string[],
  isOpenEnded: boolean,
): string[] {
  const raw: string[] = authority === undefined ? [] : ["host", authority];
  for (let i = 0; i < given.length; i += 2) {
    const name = given[i]!.toLowerCase();
    if (name.startsWith(":")) continue;
    // The same host twice is one; two that differ stay two, and are refused like any request with two.
    if (name === "host" && given[i + 1]!.toLowerCase() === authority?.toLowerCase()) continue;
    raw.push(given[i]!, given[i + 1]!);
  }
  if (isOpenEnded) raw.push("transfer-encoding", "chunked");
  return raw;
}

/** An answer in the form of HTTP/1.1, sent by HTTP/2: no reason phrase, nothing about a connection. */
export class TranslatedResponse extends Http2ServerResponse<TranslatedRequest> {
  shouldKeepAlive = true;

  constructor(stream: ServerHttp2Stream) {
    super(stream);
    Object.defineProperty(this, "destroyed", { get: () => stream.destroyed });
  }

  /** As ServerResponse's: flat pairs, an object, or nothing. */
  override writeHead(status: number, ...rest: unknown[]): this {
    const given = rest.find((part) => typeof part === "object" && part !== null);
    const pairs: [string, unknown][] = Array.isArray(given)
      ? given.flatMap((name, i) => (i % 2 === 0 ? [[String(name), given[i + 1]] as [string, unknown]] : []))
      : Object.entries((given as OutgoingHttpHeaders | undefined) ?? {});
    const headers: Record<string, string | string[]> = {};
    for (const [given, value] of pairs) {
      const name = given.toLowerCase();
      if (neverSent.has(name) || value === undefined) continue;
      const values = Array.isArray(value) ? value.map(String) : [String(value)];
      const known = headers[name];
      if (name === "set-cookie") headers[name] = [...((known as string[] | undefined) ?? []), ...values];
      else headers[name] = [...(known === undefined ? [] : [known as string]), ...values].join(", ");
    }
    super.writeHead(status, headers);
    return this;
  }

  /** An answer that broke off must not look like one that ended. */
  override destroy(): this {
    if (!this.stream?.destroyed) this.stream.close(constants.NGHTTP2_INTERNAL_ERROR);
    return this;
  }
}
