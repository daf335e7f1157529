import { domainToASCII } from "node:url";
import { PlatformError } from "@platform/contract";
import { queryOne, type Queryable } from "@platform/postgres";

const label = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

const invalid = (message: string) =>
  new PlatformError("VALIDATION_FAILED", `domain: ${message}.`, {
    errors: { domain: [message], hostname: [message] },
  });

/**
 * The name as DNS and the edges know it: lower case, punycode, without a trailing dot.
 *
 * @throws PlatformError VALIDATION_FAILED unless it is a host name by RFC 1123
 */
export function normalise(given: string): string {
  const name = given.trim().toLowerCase().replace(/\.$/, "");
  if (name.includes("*")) throw invalid("wildcards are not offered; claim each name");
  if (/[/:@?#\s]/.test(name)) throw invalid("give the host name alone, without scheme, port or path");
  const ascii = domainToASCII(name);
  const labels = ascii.split(".");
  if (ascii === "" || !labels.every((one) => label.test(one)))
    throw invalid("is no host name: labels of letters, digits and inner hyphens, at most 63 each");
  if (ascii.length > 253) throw invalid("is longer than 253 characters");
  if (labels.length < 2) throw invalid("needs at least two labels, such as app.example.com");
  if (/^\d+$/.test(labels.at(-1)!)) throw invalid("is an address, not a name");
  return ascii;
}

/** @throws PlatformError VALIDATION_FAILED for a name that the platform or a tenant's own domain already serves */
export async function assertForeign(db: Queryable, hostname: string): Promise<void> {
  const own = await queryOne<{ hit: boolean }>(
    db,
    `select true as hit from tenants, unnest(array[domain, preview_domain, deployment_domain]) as own
     where own is not null and ($1 = own or $1 like '%.' || own) limit 1`,
    [hostname],
  );
  if (own) throw invalid("lies under a domain of the platform itself; claim a name of your own");
}

/** NAME for www.NAME, and the other way round. */
export const companionOf = (hostname: string): string =>
  hostname.startsWith("www.") ? hostname.slice(4) : `www.${hostname}`;
