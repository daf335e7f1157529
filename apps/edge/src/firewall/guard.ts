/**
 * What keeps an app apart from its neighbours under a shared parent domain: the browser sends cookies of
 * the parent to all of them, and lets each of them set such cookies.
 */
export interface AppGuard {
  /** The host name lies under a domain of the tenant, as those of other apps do. */
  readonly isShared: boolean;
  /** Names of cookies of the tenant's own, or their beginnings when they end in `*`; lower case. */
  readonly reservedCookies: readonly string[];
  /** Subprotocol that carried the token of a private preview: the app does not see it. */
  readonly tokenProtocol: string | null;
  /** Its token was seen, or none is needed. */
  readonly isAdmitted: boolean;
}

/** Cookies of the edge itself. With `__Host-` in front no neighbour can set them. */
export const platformCookiePrefix = "edge_";

/** Without the prefixes to which browsers give a meaning, in whatever case. */
const bareName = (name: string): string => name.toLowerCase().replace(/^__(?:host|secure)-/, "");

export function isReservedCookie(name: string, guard: AppGuard): boolean {
  const bare = bareName(name);
  if (bare.startsWith(platformCookiePrefix)) return true;
  if (!guard.isShared) return false;
  const whole = name.toLowerCase();
  return guard.reservedCookies.some((reserved) =>
    reserved.endsWith("*") ? whole.startsWith(reserved.slice(0, -1)) : whole === reserved,
  );
}
