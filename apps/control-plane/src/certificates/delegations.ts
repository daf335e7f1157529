import { randomBytes } from "node:crypto";
import { query } from "@platform/postgres";
import { followAliases } from "../dns/index.ts";
import type { Platform } from "../platform.ts";
import { tenantById, type Tenant } from "../tenants/index.ts";
import { delegatedSubjects, wildcardParents } from "./names.ts";
import type { AcmeSettings } from "./settings.ts";
import { certificateByName, certificateView, wantCertificate } from "./store.ts";

interface DelegationRow {
  readonly name: string;
  readonly tenant_id: string;
  readonly label: string;
  readonly seen_at: Date | null;
  readonly checked_at: Date | null;
  readonly last_error: { found: string[]; verdict: "missing" | "differs" | "unreachable" } | null;
}

/** Between two looks of the background, minutes; a delegation that was seen is looked at less often. */
const pendingMinutes = 2;
const seenMinutes = 360;
const mostAtOnce = 50;

const load = (platform: Platform, tenantId: string, names: readonly string[]) =>
  query<DelegationRow>(
    platform.pool,
    "select * from acme_delegations where tenant_id = $1 and name = any($2) order by name",
    [tenantId, names],
  );

/** A label for each name under which wildcards are wanted; unguessable, and never given to another name. */
async function ensureDelegations(platform: Platform, tenant: Tenant): Promise<DelegationRow[]> {
  const parents = wildcardParents(tenant);
  for (const name of parents)
    await platform.pool.query(
      `insert into acme_delegations (name, tenant_id, label) values ($1, $2, $3)
       on conflict (name) do update set tenant_id = excluded.tenant_id, label = excluded.label, seen_at = null
       where acme_delegations.tenant_id <> excluded.tenant_id`,
      [name, tenant.id, randomBytes(16).toString("hex")],
    );
  return load(platform, tenant.id, parents);
}

/** Looks whether the customer's record leads to ours. */
async function look(platform: Platform, settings: AcmeSettings, row: DelegationRow): Promise<void> {
  const wanted = `${row.label}.${settings.dnsZone}`;
  const seen = await followAliases(platform.settings.dnsResolver ?? null, `_acme-challenge.${row.name}`);
  const ok = seen.values.includes(wanted);
  const verdict = seen.failure ? "unreachable" : seen.values.length === 0 ? "missing" : "differs";
  await platform.pool.query(
    `update acme_delegations set checked_at = now(), last_error = $2,
       seen_at = case when $3 then coalesce(seen_at, now()) when $4 then seen_at end where name = $1`,
    // A resolver that fails says nothing: what was seen before stays.
    [row.name, ok ? null : { found: seen.values, verdict }, ok, verdict === "unreachable"],
  );
}

async function viewOf(platform: Platform, settings: AcmeSettings, row: DelegationRow) {
  const certificate = await certificateByName(platform.pool, `*.${row.name}`);
  const value = `${row.label}.${settings.dnsZone}`;
  return {
    name: `*.${row.name}`,
    record: {
      type: "CNAME" as const,
      name: `_acme-challenge.${row.name}`,
      value,
      found: row.last_error?.found ?? (row.seen_at ? [value] : []),
      verdict: row.last_error?.verdict ?? (row.seen_at ? ("ok" as const) : ("unchecked" as const)),
    },
    checked_at: row.checked_at?.toISOString() ?? null,
    certificate: certificate ? certificateView(certificate) : null,
  };
}

/** @param mustLook asks DNS now, in place of telling what was seen last */
export async function wildcardsOf(
  platform: Platform,
  settings: AcmeSettings | null,
  tenantId: string,
  mustLook: boolean,
) {
  if (!settings?.dnsZone) return [];
  const tenant = (await tenantById(platform.pool, tenantId))!;
  let rows = await ensureDelegations(platform, tenant);
  if (mustLook) {
    await Promise.all(rows.map((row) => look(platform, settings, row)));
    await orderDelegated(platform);
    rows = await load(
      platform,
      tenantId,
      rows.map((row) => row.name),
    );
  }
  return Promise.all(rows.map((row) => viewOf(platform, settings, row)));
}

async function orderDelegated(platform: Platform): Promise<void> {
  for (const subject of await delegatedSubjects(platform.pool))
    if (!(await certificateByName(platform.pool, subject.name))) await wantCertificate(platform, subject);
}

/** Chore: every tenant has its labels, records that appeared are seen, and their wildcards ordered. */
export async function keepDelegations(platform: Platform, settings: AcmeSettings | null): Promise<void> {
  if (!settings?.dnsZone) return;
  const missing = await query<Tenant>(
    platform.pool,
    `select * from tenants t where not exists (select 1 from acme_delegations d where d.tenant_id = t.id and d.name = t.domain) limit ${mostAtOnce}`,
  );
  for (const tenant of missing) await ensureDelegations(platform, tenant);
  const changed = await query<Tenant>(
    platform.pool,
    `select t.* from tenants t where (t.preview_domain is not null and not exists (select 1 from acme_delegations d where d.name = 'sandbox.' || t.preview_domain))
       or (t.deployment_domain is not null and not exists (select 1 from acme_delegations d where d.name = t.deployment_domain)) limit ${mostAtOnce}`,
  );
  for (const tenant of changed) await ensureDelegations(platform, tenant);
  const due = await query<DelegationRow>(
    platform.pool,
    `select * from acme_delegations where checked_at is null
       or checked_at < now() - (case when seen_at is null then interval '${pendingMinutes} minutes' else interval '${seenMinutes} minutes' end)
     order by checked_at nulls first limit ${mostAtOnce}`,
  );
  await Promise.all(due.map((row) => look(platform, settings, row)));
  await orderDelegated(platform);
}
