import { clearSiteDataFromApp, cookieFromApp, cookiesForApp } from "./cookies.ts";
import type { AppGuard } from "./guard.ts";
import { isEdgeAnswerHeader } from "./identity.ts";

const protocolHeader = "sec-websocket-protocol";

/**
 * Headers of a client as its app may see them.
 *
 * @param headers flat name-value pairs
 */
export function headersForApp(headers: readonly string[], guard: AppGuard): string[] {
  const result: string[] = [];
  const cookies: string[] = [];
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i]!.toLowerCase();
    if (name === "cookie") {
      cookies.push(headers[i + 1]!);
      continue;
    }
    const value =
      name === protocolHeader ? withoutProtocol(headers[i + 1]!, guard.tokenProtocol) : headers[i + 1]!;
    if (value !== null) result.push(headers[i]!, value);
  }
  // Several Cookie headers are one (RFC 9113 section 8.2.3), also where a name comes twice.
  const left = cookies.length === 0 ? null : cookiesForApp(cookies.join("; "), guard);
  if (left !== null) result.push("cookie", left);
  return result;
}

/** Headers of an app as a client may see them; flat name-value pairs. */
export function headersFromApp(headers: readonly string[], hostname: string, guard: AppGuard): string[] {
  const result: string[] = [];
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i]!.toLowerCase();
    if (isEdgeAnswerHeader(name)) continue;
    const given = headers[i + 1]!;
    const value =
      name === "set-cookie"
        ? cookieFromApp(given, hostname, guard)
        : name === "clear-site-data"
          ? clearSiteDataFromApp(given, guard)
          : given;
    if (value !== null) result.push(headers[i]!, value);
  }
  return result;
}

/**
 * A browser that offered subprotocols breaks a connection that chose none: where the app chose none, the one
 * that carried the token counts as chosen.
 */
export function upgradeHeadersFromApp(
  headers: readonly string[],
  hostname: string,
  guard: AppGuard,
): string[] {
  const result = headersFromApp(headers, hostname, guard);
  const hasChosen = result.some((part, i) => i % 2 === 0 && part.toLowerCase() === protocolHeader);
  if (guard.tokenProtocol !== null && !hasChosen) result.push(protocolHeader, guard.tokenProtocol);
  return result;
}

function withoutProtocol(header: string, protocol: string | null): string | null {
  if (protocol === null) return header;
  const kept = header
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "" && part !== protocol);
  return kept.length === 0 ? null : kept.join(", ");
}
