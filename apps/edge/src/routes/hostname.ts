import { isIP } from "node:net";

const MAX_HOSTNAME_LENGTH = 253;
const NAME = /^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$/;

/**
 * Brings the value of a Host header to the form that the route table is keyed by: lower case, no
 * port, no trailing dot. Punycode stays as it is; an IPv6 address loses its brackets.
 *
 * @returns null if the value is not a host name or address with an optional port
 */
export function normalizeHostname(hostHeader: string): string | null {
  const bracketed = /^\[([0-9a-fA-F:.]+)\](?::\d{0,5})?$/.exec(hostHeader);
  if (bracketed) return isIP(bracketed[1]!) === 6 ? bracketed[1]!.toLowerCase() : null;
  const match = /^([^:]+)(?::\d{0,5})?$/.exec(hostHeader);
  if (!match) return null;
  const name = match[1]!.toLowerCase().replace(/\.$/, "");
  if (name.length === 0 || name.length > MAX_HOSTNAME_LENGTH || !NAME.test(name)) return null;
  return name;
}

/** Names that no tenant can own: an address, or the machine itself. */
export function isMachineName(hostname: string): boolean {
  return hostname === "localhost" || isIP(hostname) !== 0;
}
