import { STATUS_CODES } from "node:http";
import { edgePageHeader, type Brand } from "@platform/edge-api";
import type { Exchange } from "../exchange.ts";
import { pickLanguage } from "./accept.ts";
import { htmlPage, type PageFacts } from "./html.ts";
import { pageKinds, type PageKind } from "./kinds.ts";
import { negotiate, type Form } from "./negotiate.ts";
import { refreshScriptHash } from "./refresh.ts";
import { isLanguage, languages, type Language } from "./texts/index.ts";
import type { Wait } from "./waits.ts";

export interface RenderedPage {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body: string | Buffer;
}

const policy = (isWaiting: boolean): string =>
  [
    "default-src 'none'",
    "style-src 'unsafe-inline'",
    "img-src data:",
    "font-src data:",
    ...(isWaiting ? [`script-src ${refreshScriptHash}`, "connect-src 'self'"] : []),
    "base-uri 'none'",
    "form-action 'none'",
  ].join("; ");

/** One transparent pixel: what stands in for a picture must be one. */
const pixel = Buffer.from("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7", "base64");

/** What every answer of the edge itself carries. */
const plainHeaders = (kind: PageKind | "file"): Record<string, string> => ({
  "cache-control": "no-store",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  vary: "accept, accept-language, sec-fetch-dest",
  [edgePageHeader]: kind.replaceAll("_", "-"),
});

export const languageFor = (header: string | undefined, brand: Brand | null): Language =>
  pickLanguage(header, isLanguage, brand?.language && isLanguage(brand.language) ? brand.language : "en");

/** One page in the form that the client can use. */
export function renderPage(form: Form, facts: PageFacts): RenderedPage {
  const page = pageKinds[facts.kind];
  const headers = plainHeaders(facts.kind);
  headers["x-request-id"] = facts.requestId;
  if (page.retryAfterSec !== null) headers["retry-after"] = String(page.retryAfterSec);
  // RFC 9110 section 15.5.2 wants a challenge; this one makes no browser ask for a password.
  if (page.status === 401) headers["www-authenticate"] = 'Bearer realm="preview"';
  if (facts.kind === "method_not_allowed") headers["allow"] = "GET, HEAD";
  const body = bodyOf(form, facts, headers);
  headers["content-length"] = String(Buffer.byteLength(body));
  return { status: page.status, headers, body };
}

function bodyOf(form: Form, facts: PageFacts, headers: Record<string, string>): string | Buffer {
  switch (form.type) {
    case "html":
      headers["content-type"] = "text/html; charset=utf-8";
      headers["content-language"] = facts.language;
      headers["content-security-policy"] = policy(facts.kind === "starting");
      return htmlPage(facts);
    case "problem":
      headers["content-type"] = form.contentType;
      headers["content-language"] = facts.language;
      return problem(facts);
    case "event": {
      headers["content-type"] = "text/event-stream; charset=utf-8";
      const retry = pageKinds[facts.kind].retryAfterSec;
      const wait = retry === null ? "" : `retry: ${retry * 1000}\n`;
      return `${wait}event: error\ndata: ${problem(facts, { type: "error" })}\n\n`;
    }
    case "image":
      headers["content-type"] = "image/gif";
      return pixel;
    case "empty":
      headers["content-type"] = form.contentType;
      return "";
  }
}

/** RFC 9457, with the `error` object that published clients read. */
function problem({ kind, brand, detail, requestId, language }: PageFacts, more: object = {}): string {
  const { status, code, retryAfterSec } = pageKinds[kind];
  const { title, message, action } = languages[language].pages[kind];
  const text = `${detail ?? message} ${action}`;
  return JSON.stringify({
    ...more,
    ...("type" in more ? {} : { type: brand ? `https://${brand.domain}/problems/${code}` : "about:blank" }),
    title,
    status,
    detail: text,
    instance: `urn:request:${requestId}`,
    code,
    error: {
      code,
      message: text,
      details: {},
      retryable: retryAfterSec !== null,
      ...(retryAfterSec === null ? {} : { retry_after_ms: retryAfterSec * 1000 }),
      request_id: requestId,
    },
  });
}

/** Answers with a page of the edge. Does nothing if an answer has already begun. */
export function sendPage(
  exchange: Exchange,
  kind: PageKind,
  brand: Brand | null,
  detail: string | null = null,
  wait: Wait | null = null,
): void {
  const { req, res, requestId } = exchange;
  if (res.headersSent || res.destroyed) return;
  if (sendBareFile(exchange, kind, brand)) return;
  const language = languageFor(req.headers["accept-language"], brand);
  const page = renderPage(negotiate(req), { kind, brand, detail, requestId, language, wait });
  res.writeHead(page.status, page.headers);
  res.end(req.method === "HEAD" ? undefined : page.body);
}

/** Kinds under which a host name has an app, which merely does not answer now. */
const passing: ReadonlySet<PageKind> = new Set(["starting", "error", "timeout", "unavailable", "busy"]);
const unclear: ReadonlySet<PageKind> = new Set(["bad_request", "headers_too_large", "method_not_allowed"]);

/**
 * What browsers and crawlers ask for by themselves, where no app answers it. A crawler that meets an app
 * which is down for a moment is told to come again (503), not to forget it.
 */
function sendBareFile(
  { req, res, target, requestId }: Exchange,
  kind: PageKind,
  brand: Brand | null,
): boolean {
  if ((req.method !== "GET" && req.method !== "HEAD") || unclear.has(kind) || kind === "file_not_found")
    return false;
  const path = target.split("?", 1)[0];
  const isIcon = path === "/favicon.ico";
  if (!isIcon && path !== "/robots.txt") return false;
  const [, iconType, iconData] = /^data:([^;]+);base64,(.*)$/.exec(brand?.favicon ?? "") ?? [];
  const body = isIcon
    ? iconData === undefined
      ? pixel
      : Buffer.from(iconData, "base64")
    : Buffer.from("User-agent: *\nDisallow: /\n");
  const status = !isIcon && passing.has(kind) ? 503 : 200;
  res.writeHead(status, STATUS_CODES[status], {
    ...plainHeaders("file"),
    "x-request-id": requestId,
    "content-type": isIcon ? (iconType ?? "image/gif") : "text/plain; charset=utf-8",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "content-length": String(body.length),
  });
  res.end(req.method === "HEAD" ? undefined : body);
  return true;
}
