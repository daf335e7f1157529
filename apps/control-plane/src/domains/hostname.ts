import { domainToASCII } from "node:url";
import { PlatformError } from "@platform/contract";
import { queryOne, type Queryable } from "@platform/postgres";
import { getPublicSuffix } from "tldts";

const label = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** Stable, as `details.reason`. */
type Reason =
  | "wildcard"
  | "not_a_hostname"
  | "too_long"
  | "single_label"
  | "address"
  | "reserved"
  | "public_suffix"
  | "platform_name";

const invalid = (reason: Reason, message: string) =>
  new PlatformError("VALIDATION_FAILED", `domain: ${message}.`, {
    details: { reason },
    errors: { domain: [message], hostname: [message] },
  });

/** Names that the public DNS never has, RFC 6761 and later. */
const reserved = new Set(["local", "internal", "onion", "arpa", "invalid"]);

/**
 * The name as DNS and the edges know it: lower case, punycode, without a trailing dot.
 *
 * @throws PlatformError VALIDATION_FAILED unless it is a host name by RFC 1123
 */
export function normalise(given: string): string {
  const name = given.trim().toLowerCase().replace(/\.$/, "");
  if (name.includes("*")) throw invalid("wildcard", "wildcards are not offered; claim each name");
  if (/[/:@?#\s]/.test(name))
    throw invalid("not_a_hostname", "give the host name alone, without scheme, port or path");
  const ascii = domainToASCII(name);
  const labels = ascii.split(".");
  if (ascii === "" || !labels.every((one) => label.test(one)))
    throw invalid(
      "not_a_hostname",
      "is no host name: labels of letters, digits and inner hyphens, at most 63 each",
    );
  if (ascii.length > 253) throw invalid("too_long", "is longer than 253 characters");
  if (labels.length < 2) throw invalid("single_label", "needs at least two labels, such as app.example.com");
  if (/^\d+$/.test(labels.at(-1)!)) throw invalid("address", "is an address, not a name");
  if (reserved.has(labels.at(-1)!))
    throw invalid("reserved", "lies under a name that the public DNS does not have");
  // Also where hosters give names to strangers: whoever could claim all of github.io would have everybody's.
  if (labels.length > 1 && getPublicSuffix(ascii, { allowPrivateDomains: true }) === ascii)
    throw invalid("public_suffix", "is a suffix under which others have names; claim a name of your own");
  return ascii;
}

/** @throws PlatformError VALIDATION_FAILED for a name that the platform or a tenant's own domain already serves */
export async function assertForeign(
  db: Queryable,
  hostname: string,
  acmeZone: string | null = null,
): Promise<void> {
  const own = await queryOne<{ hit: boolean }>(
    db,
    `select true as hit from tenants, unnest(array[domain, preview_domain, deployment_domain]) as own
     where own is not null and ($1 = own or $1 like '%.' || own) limit 1`,
    [hostname],
  );
  const isZone = acmeZone !== null && (hostname === acmeZone || hostname.endsWith(`.${acmeZone}`));
  if (own || isZone)
    throw invalid("platform_name", "lies under a domain of the platform itself; claim a name of your own");
}

/** NAME for www.NAME, and the other way round. */
export const companionOf = (hostname: string): string =>
  hostname.startsWith("www.") ? hostname.slice(4) : `www.${hostname}`;
