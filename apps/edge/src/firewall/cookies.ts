import { isReservedCookie, type AppGuard } from "./guard.ts";

interface Cookie {
  readonly name: string;
  readonly text: string;
}

function parse(header: string): Cookie[] {
  return header
    .split(";")
    .map((part) => part.trim())
    .filter((text) => text !== "")
    .map((text) => {
      const equals = text.indexOf("=");
      return { name: equals < 0 ? "" : text.slice(0, equals).trim(), text };
    });
}

/**
 * The Cookie header as an app may see it.
 *
 * Under a shared domain, a name that comes twice with two values is left out: one of them may have been
 * set for the parent domain by a neighbour's page, and nothing in the header tells which. The app then
 * takes the visitor for a new one instead of for somebody whom the neighbour chose.
 *
 * @returns null when nothing is left
 */
export function cookiesForApp(header: string, guard: AppGuard): string | null {
  const seen = new Map<string, Set<string>>();
  const cookies = parse(header).filter(({ name }) => !isReservedCookie(name, guard));
  for (const { name, text } of cookies) seen.set(name, (seen.get(name) ?? new Set()).add(text));
  const left = guard.isShared ? cookies.filter(({ name }) => seen.get(name)!.size === 1) : cookies;
  return left.length === 0 ? null : left.map(({ text }) => text).join("; ");
}

/**
 * A Set-Cookie header of an app as a browser may see it: under a shared domain it stays with its host name,
 * whatever domain it asks for.
 *
 * @returns null when the cookie is not the app's to set
 */
export function cookieFromApp(header: string, hostname: string, guard: AppGuard): string | null {
  const [pair = "", ...attributes] = header.split(";");
  const equals = pair.indexOf("=");
  // Browsers take a cookie without a name by its value: `=edge_x=1` would be sent as `edge_x=1`.
  const name = (equals < 0 ? "" : pair.slice(0, equals)).trim();
  const sentAs =
    name === ""
      ? pair
          .slice(equals + 1)
          .split("=", 1)[0]!
          .trim()
      : name;
  if (isReservedCookie(sentAs, guard)) return null;
  if (!guard.isShared) return header;
  const kept = attributes.filter((attribute) => {
    const [key = "", ...value] = attribute.split("=");
    if (key.trim().toLowerCase() !== "domain") return true;
    return value.join("=").trim().toLowerCase().replace(/^\./, "") === hostname;
  });
  return [pair, ...kept].join(";");
}

/** Cookies are cleared for the whole registrable domain, so an app would log its tenant's users out. */
export function clearSiteDataFromApp(header: string, guard: AppGuard): string | null {
  if (!guard.isShared) return header;
  const kept = header
    .split(",")
    .map((part) => part.trim())
    .filter((part) => !["*", "cookies"].includes(part.toLowerCase().replaceAll('"', "")));
  return kept.length === 0 ? null : kept.join(", ");
}
