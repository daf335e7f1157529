import { edgePageHeader, type Brand } from "@platform/edge-api";
import type { Exchange } from "../exchange.ts";
import { htmlPage, type PageFacts } from "./html.ts";
import { pageKinds, type PageKind } from "./kinds.ts";
import { negotiate, type Form } from "./negotiate.ts";

export interface RenderedPage {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body: string;
}

const contentSecurityPolicy =
  "default-src 'none'; style-src 'unsafe-inline'; img-src https: data:; base-uri 'none'; form-action 'none'";

/** One page in the form that the client can use. */
export function renderPage(form: Form, facts: PageFacts): RenderedPage {
  const page = pageKinds[facts.kind];
  const headers: Record<string, string> = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    [edgePageHeader]: facts.kind.replaceAll("_", "-"),
  };
  if (page.retryAfterSec !== null) headers["retry-after"] = String(page.retryAfterSec);
  if (facts.kind === "method_not_allowed") headers["allow"] = "GET, HEAD";
  let body = "";
  if (form.type === "html") {
    headers["content-type"] = "text/html; charset=utf-8";
    headers["content-security-policy"] = contentSecurityPolicy;
    body = htmlPage(facts);
  } else if (form.type === "problem") {
    headers["content-type"] = "application/json; charset=utf-8";
    body = problem(facts);
  } else {
    headers["content-type"] = form.contentType;
  }
  headers["content-length"] = String(Buffer.byteLength(body));
  return { status: page.status, headers, body };
}

function problem({ kind, brand, detail, requestId }: PageFacts): string {
  const { status, code, title, message, action, retryAfterSec } = pageKinds[kind];
  const text = `${detail ?? message} ${action}`;
  return JSON.stringify({
    type: brand ? `https://${brand.domain}/problems/${code}` : "about:blank",
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
): void {
  const { req, res, requestId } = exchange;
  if (res.headersSent || res.destroyed) return;
  const page = renderPage(negotiate(req), { kind, brand, detail, requestId });
  res.writeHead(page.status, page.headers);
  res.end(req.method === "HEAD" ? undefined : page.body);
}
