import { getDomain } from "tldts";
import { query, queryOne, type Queryable } from "@platform/postgres";
import { previewDomain, storageHostname, type Tenant } from "../tenants/index.ts";

/** The name that anybody can register, by the public suffix list; the name itself where there is none. */
export const registeredDomain = (hostname: string): string =>
  getDomain(hostname.replace(/^\*\./, ""), { allowPrivateDomains: false }) ?? hostname.replace(/^\*\./, "");

/** Names under which a tenant's host names lie side by side, so that one wildcard serves them all. */
export const wildcardParents = (tenant: Tenant): string[] => [
  ...new Set([
    tenant.domain,
    tenant.deployment_domain ?? tenant.domain,
    previewDomain(tenant),
    `sandbox.${tenant.domain}`,
    storageHostname(tenant),
  ]),
];

/** Every suffix of a name as a wildcard, the longest first: `a.b.c` → `*.b.c`, `*.c`. */
function wildcardsAbove(hostname: string): string[] {
  const labels = hostname.split(".");
  return labels.slice(1).map((_, index) => `*.${labels.slice(index + 1).join(".")}`);
}

interface Owner {
  readonly tenantId: string;
  /** The host name has a route of its own; names below a wildcard route are without number. */
  readonly isExact: boolean;
}

/** Whose the host name is by the routes that edges serve; null: nobody's, and no order for it. */
export async function ownerOf(db: Queryable, hostname: string): Promise<Owner | null> {
  // `*-ID.DOMAIN` is how the ports of a sandbox are routed: `PORT-ID.DOMAIN`.
  const port = /^\d{1,5}(-[0-9a-f-]{36}\..+)$/.exec(hostname);
  const names = [hostname, ...(port ? [`*${port[1]}`] : []), ...wildcardsAbove(hostname)];
  const row = await queryOne<{ tenant_id: string; is_exact: boolean }>(
    db,
    `select tenant_id, hostname = $2 as is_exact from routes where hostname = any($1) and target is not null
     order by hostname = $2 desc, length(hostname) desc limit 1`,
    [names, hostname],
  );
  return row ? { tenantId: row.tenant_id, isExact: row.is_exact } : null;
}

export interface Subject {
  readonly tenantId: string;
  /** What the certificate is kept under. */
  readonly name: string;
  readonly names: readonly string[];
}

const wildcardOf = (tenant: Tenant, parent: string): Subject => ({
  tenantId: tenant.id,
  name: `*.${parent}`,
  names: [`*.${parent}`, parent],
});

/**
 * The certificate that serves a host name: the wildcard beside it where its challenge is delegated to us,
 * else one for this name alone, if it has a route of its own.
 *
 * @returns null if there is none to be ordered
 */
export async function subjectOf(
  db: Queryable,
  hostname: string,
  hasWildcards: boolean,
): Promise<Subject | null> {
  const owner = await ownerOf(db, hostname);
  if (!owner) return null;
  const { tenantId } = owner;
  const parent = hostname.slice(hostname.indexOf(".") + 1);
  const delegated = hasWildcards
    ? await queryOne<{ name: string }>(
        db,
        `select name from acme_delegations where name = any($1) and seen_at is not null and tenant_id = $2
         order by length(name) desc limit 1`,
        [[hostname, parent], tenantId],
      )
    : null;
  if (!delegated) return owner.isExact ? { tenantId, name: hostname, names: [hostname] } : null;
  const name = `*.${delegated.name}`;
  return { tenantId, name, names: [name, delegated.name] };
}

/** Wildcards that can be had now: those whose delegation was seen. */
export async function delegatedSubjects(db: Queryable): Promise<Subject[]> {
  const rows = await query<Tenant & { parent: string }>(
    db,
    "select t.*, d.name as parent from acme_delegations d join tenants t on t.id = d.tenant_id where d.seen_at is not null",
  );
  return rows
    .filter((row) => wildcardParents(row).includes(row.parent))
    .map((row) => wildcardOf(row, row.parent));
}

/** Whether anybody still has what the certificate is for. */
export async function isWanted(db: Queryable, name: string): Promise<boolean> {
  if (!name.startsWith("*.")) return (await ownerOf(db, name))?.isExact === true;
  return (await delegatedSubjects(db)).some((subject) => subject.name === name);
}
