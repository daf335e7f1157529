import type { Brand } from "@platform/edge-api";
import { escapeHtml } from "./escape.ts";
import { pageKinds, type PageKind } from "./kinds.ts";
import { LOOK_EVERY_SEC, refreshScript } from "./refresh.ts";
import { stylesheet } from "./stylesheet.ts";
import { languages, type Language, type Texts } from "./texts/index.ts";
import type { Wait } from "./waits.ts";

export interface PageFacts {
  readonly kind: PageKind;
  /** Null: no tenant owns the host name, and the page names nobody. */
  readonly brand: Brand | null;
  /** Said besides the standard message. */
  readonly detail: string | null;
  readonly requestId: string;
  readonly language: Language;
  /** Set for an app that starts, or did not. */
  readonly wait?: Wait | null;
}

/** Where asking again by hand may help. */
const repeatable: ReadonlySet<PageKind> = new Set([
  ...["start_failed", "stopped", "error", "sandbox_not_found", "port_closed", "timeout", "unavailable"],
  ...["maintenance", "certificate_pending", "busy", "rate_limited", "over_quota"],
] as PageKind[]);

export function htmlPage(facts: PageFacts): string {
  const { kind, brand, language } = facts;
  const title = languages[language].pages[kind].title;
  const isWaiting = kind === "starting";
  const refresh = isWaiting
    ? `\n<noscript><meta http-equiv="refresh" content="${LOOK_EVERY_SEC}"></noscript>`
    : "";
  const icon = brand?.favicon ? `\n<link rel="icon" href="${brand.favicon}">` : "";
  return `<!doctype html>
<html lang="${language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">${refresh}${icon}
<title>${escapeHtml(brand ? `${title} · ${brand.name}` : title)}</title>
<style>${stylesheet(brand)}</style>
</head>
<body>
${body(facts)}${isWaiting ? `<script>${refreshScript}</script>\n` : ""}</body>
</html>
`;
}

function body(facts: PageFacts): string {
  const { kind, brand, language } = facts;
  const own = ownPage(brand, kind, language);
  const texts = languages[language];
  if (own !== null)
    return `<main>\n${fill(own, variables(facts))}\n${waitBlock(facts.wait, texts, kind)}</main>\n`;
  return `${brand ? header(brand) : ""}<main>
${standard(facts, texts)}</main>
${brand ? footer(brand, texts) : ""}`;
}

function standard({ kind, detail, requestId, wait }: PageFacts, texts: Texts): string {
  const { status, retryAfterSec } = pageKinds[kind];
  const { title, message, action } = texts.pages[kind];
  const isWaiting = kind === "starting";
  const parts = [
    isWaiting
      ? '<p class="dots" aria-hidden="true"><i></i><i></i><i></i></p>'
      : `<p class="status">${status}</p>`,
    `<h1>${escapeHtml(title)}</h1>`,
    `<p${isWaiting ? ' role="status"' : ""}>${escapeHtml(message)}</p>`,
    detail ? `<p>${escapeHtml(detail)}</p>` : "",
    waitBlock(wait, texts, kind),
    `<p>${escapeHtml(action)}</p>`,
    repeatable.has(kind) ? `<p><a class="again" href="">${escapeHtml(texts.retry)}</a></p>` : "",
    status >= 500 && retryAfterSec === null
      ? `<p class="small">${escapeHtml(texts.request)} <code>${escapeHtml(requestId)}</code></p>`
      : "",
  ];
  return parts.filter((part) => part !== "").join("\n");
}

function waitBlock(wait: Wait | null | undefined, texts: Texts, kind: PageKind): string {
  if (!wait) return "";
  if (kind === "start_failed") return `<p>${escapeHtml(texts.gaveUp(wait.waitedSec))}</p>`;
  const label = escapeHtml(texts.waiting);
  return `<div id="wait"><progress aria-label="${label}" max="${wait.limitSec}" value="${wait.waitedSec}"></progress>
<p class="small">${escapeHtml(texts.waited(wait.waitedSec, wait.limitSec))}</p></div>`;
}

function header(brand: Brand): string {
  const light = brand.logoLight ?? brand.logo;
  const picture = brand.logo
    ? `<img class="light" src="${brand.logo}" alt=""><img class="dark" src="${light}" alt="">`
    : "";
  return `<header>${picture}<span>${escapeHtml(brand.name)}</span></header>\n`;
}

const webUrl = (text: string | null, brand: Brand): string | null => {
  const base = `https://${brand.domain}`;
  if (!text || !URL.canParse(text, base)) return null;
  const { href, protocol } = new URL(text, base);
  return protocol === "https:" || protocol === "http:" ? href : null;
};

function supportTarget(brand: Brand): string | null {
  const isAddress = brand.supportEmail && /^[^\s@:?]+@[^\s@:?]+$/.test(brand.supportEmail);
  return webUrl(brand.supportUrl, brand) ?? (isAddress ? `mailto:${brand.supportEmail}` : null);
}

function footer(brand: Brand, texts: Texts): string {
  const support = supportTarget(brand);
  const links = [
    ...(support ? [{ url: support, label: texts.support(brand.name) }] : []),
    ...brand.legalLinks.flatMap(({ label, url }) => {
      const target = webUrl(url, brand);
      return target ? [{ url: target, label }] : [];
    }),
  ];
  if (links.length === 0) return "";
  const items = links.map(
    ({ url, label }) => `<li><a href="${escapeHtml(url)}" rel="noreferrer">${escapeHtml(label)}</a></li>`,
  );
  return `<footer><nav aria-label="${escapeHtml(texts.links)}"><ul>${items.join("")}</ul></nav></footer>\n`;
}

function ownPage(brand: Brand | null, kind: PageKind, language: Language): string | null {
  const pages = brand?.pages ?? {};
  return (
    pages[`${kind}.${language}`] ?? pages[kind] ?? pages[`default.${language}`] ?? pages["default"] ?? null
  );
}

/** What a tenant's own page can name; the control plane refuses any other name. */
function variables({ kind, brand, detail, requestId, language }: PageFacts): Record<string, string> {
  const { status, code, retryAfterSec } = pageKinds[kind];
  return {
    ...languages[language].pages[kind],
    detail: detail ?? "",
    status: String(status),
    code,
    request_id: requestId,
    retry_seconds: retryAfterSec === null ? "" : String(retryAfterSec),
    language,
    name: brand?.name ?? "",
    support_url: brand ? (supportTarget(brand) ?? "") : "",
  };
}

/** In one pass, so that a value cannot name another variable; every value is escaped. */
const fill = (template: string, values: Record<string, string>): string =>
  template.replace(/\{\{\s*([a-z_]+)\s*\}\}/g, (_whole, name: string) =>
    escapeHtml(Object.hasOwn(values, name) ? values[name]! : ""),
  );
