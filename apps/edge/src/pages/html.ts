import type { Brand } from "@platform/edge-api";
import { pageKinds, type PageKind } from "./kinds.ts";

export interface PageFacts {
  readonly kind: PageKind;
  /** Null: no tenant owns the host name, and the page names nobody. */
  readonly brand: Brand | null;
  /** Replaces the standard message. */
  readonly detail: string | null;
  readonly requestId: string;
}

const entities: Record<string, string> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};
export const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (sign) => entities[sign]!);

/** Without scripts and without assets but the brand's own logo; readable in light and dark. */
export function htmlPage({ kind, brand, detail, requestId }: PageFacts): string {
  const page = pageKinds[kind];
  const title = brand ? `${page.title} · ${brand.name}` : page.title;
  const refresh = kind === "starting" ? `\n<meta http-equiv="refresh" content="${page.retryAfterSec}">` : "";
  const showsRequest = page.status >= 500 && page.retryAfterSec === null;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta name="color-scheme" content="light dark">${refresh}
<title>${escapeHtml(title)}</title>
<style>${stylesheet(brand)}</style>
</head>
<body>
<main>
${brand ? header(brand) : ""}<h1>${escapeHtml(page.title)}</h1>
<p${kind === "starting" ? ' role="status"' : ""}>${escapeHtml(detail ?? page.message)}</p>
<p>${escapeHtml(page.action)}</p>
${showsRequest ? `<p class="small">Request <code>${escapeHtml(requestId)}</code></p>\n` : ""}${brand ? support(brand) : ""}</main>
</body>
</html>
`;
}

function header(brand: Brand): string {
  const logo = brand.logoUrl && /^(https:|data:image\/)/i.test(brand.logoUrl) ? brand.logoUrl : null;
  const picture = logo ? `<img src="${escapeHtml(logo)}" alt="" height="32">` : "";
  return `<header>${picture}<span>${escapeHtml(brand.name)}</span></header>\n`;
}

function support(brand: Brand): string {
  const target =
    brand.supportUrl && /^https?:\/\//i.test(brand.supportUrl)
      ? brand.supportUrl
      : brand.supportEmail && /^[^\s@:]+@[^\s@:]+$/.test(brand.supportEmail)
        ? `mailto:${brand.supportEmail}`
        : null;
  if (!target) return "";
  return `<p class="small"><a href="${escapeHtml(target)}">Contact ${escapeHtml(brand.name)} support</a></p>\n`;
}

/** Colours come from a tenant: only the hexadecimal form is let into the style sheet. */
const colour = (value: string | undefined, standard: string): string =>
  value && /^#([0-9a-f]{3}|[0-9a-f]{6})$/i.test(value) ? value : standard;

/** Relative luminance, see WCAG 2. */
function isLight(hex: string): boolean {
  const full = hex.length === 4 ? [...hex.slice(1)].map((digit) => digit + digit).join("") : hex.slice(1);
  const [red, green, blue] = [0, 2, 4].map((at) => {
    const part = Number.parseInt(full.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179;
}

function stylesheet(brand: Brand | null): string {
  const primary = colour(brand?.colorPrimary, "#475569");
  const background = colour(brand?.colorBackground, "#ffffff");
  const text = isLight(background) ? "#1e293b" : "#f1f5f9";
  return `:root{--bar:${primary};--back:${background};--text:${text}}
@media (prefers-color-scheme:dark){:root{--back:#0f172a;--text:#f1f5f9}}
body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--back);color:var(--text);font:1rem/1.6 system-ui,sans-serif}
main{max-width:34rem;margin:2rem;padding:2rem;border-top:4px solid var(--bar)}
header{display:flex;gap:.75rem;align-items:center;font-weight:600}
h1{font-size:1.5rem;line-height:1.3}
a{color:inherit;text-decoration:underline;text-decoration-color:var(--bar)}
a:focus-visible{outline:3px solid var(--bar);outline-offset:2px}
.small{font-size:.875rem}`;
}
