import { randomBytes } from "node:crypto";
import { PlatformError, deploymentDomainRoutes, notFound, previewDomainRoutes } from "@platform/contract";
import { queryOne, transaction, type Queryable } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import { handler, type Caller, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { bumpRoutesIn } from "./brand-routes.ts";
import { checkRecords, wantedRecords, type DomainKind, type DomainRow } from "./domain-records.ts";
import { tenantById, type Tenant } from "./tenant.ts";
import { assertWholeTenant } from "./workspaces.ts";

export interface DomainSettings {
  /** DNS servers to ask, such as 127.0.0.1:5353; null: the machine's own. */
  readonly dnsServers: readonly string[] | null;
}

const columns = { preview: "preview_domain", deployment: "deployment_domain" } as const;

const taken = () => new PlatformError("DOMAIN_TAKEN", "This domain cannot be claimed. Choose another one.");

/** @throws PlatformError VALIDATION_FAILED unless it is a host name of at least two labels */
export function parseDomain(text: string, field: string): string {
  const name = text.trim().toLowerCase().replace(/\.$/, "");
  const labels = name.split(".");
  const isName =
    labels.length >= 2 && labels.every((label) => /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/.test(label));
  // The longest name below it still needs room for a port, a slug and `sandbox`.
  if (isName && name.length <= 180 && !/^\d+$/.test(labels.at(-1)!)) return name;
  throw new PlatformError("VALIDATION_FAILED", `${field}: is not a domain name such as apps.example.com.`, {
    errors: { [field]: ["is not a domain name such as apps.example.com"] },
  });
}

const loadDomain = (db: Queryable, tenantId: string, kind: DomainKind) =>
  queryOne<DomainRow>(db, "select * from tenant_domains where tenant_id = $1 and kind = $2", [
    tenantId,
    kind,
  ]);

/** Another tenant's brand, or a domain that it uses, or a name below or above one of those. */
async function assertFree(db: Queryable, tenantId: string, domain: string): Promise<void> {
  const other = await queryOne(
    db,
    `select 1 as one from tenants t, unnest(array[t.domain, t.preview_domain, t.deployment_domain]) as used
     where t.id <> $1 and used is not null and ($2 = used or $2 like '%.' || used or used like '%.' || $2) limit 1`,
    [tenantId, domain],
  );
  if (other) throw taken();
}

function view(tenant: Tenant, kind: DomainKind, row: DomainRow | null) {
  const records = row ? wantedRecords(tenant, row) : [];
  return {
    domain: row?.domain ?? null,
    status: row ? (row.verified_at ? "verified" : "pending") : "default",
    verified: row?.verified_at != null,
    verified_at: row?.verified_at?.toISOString() ?? null,
    cname_target: tenant.domain,
    records,
    verification_token: row?.token ?? null,
    /** The one in force: an unverified domain is never used. */
    active_domain: tenant[columns[kind]] ?? tenant.domain,
    last_error: row?.last_error ?? null,
  };
}

/** Stores the domain as pending; the one in force stays until the new one is verified. */
export async function setTenantDomain(
  platform: Platform,
  caller: Caller,
  kind: DomainKind,
  text: string,
): Promise<DomainRow> {
  assertWholeTenant(caller, "The domain");
  const domain = parseDomain(text, columns[kind]);
  await assertFree(platform.pool, caller.tenantId, domain);
  const row = await queryOne<DomainRow>(
    platform.pool,
    `insert into tenant_domains as d (tenant_id, kind, domain, token) values ($1, $2, $3, $4)
     on conflict (tenant_id, kind) do update set domain = excluded.domain,
       token = case when d.domain = excluded.domain then d.token else excluded.token end,
       verified_at = case when d.domain = excluded.domain then d.verified_at end,
       checked_at = case when d.domain = excluded.domain then d.checked_at end,
       last_error = case when d.domain = excluded.domain then d.last_error end
     returning *`,
    [caller.tenantId, kind, domain, `verify-${randomBytes(18).toString("base64url")}`],
  );
  return row!;
}

/** Puts the verified domain in force. Deployments look again, since their host names follow it. */
async function useDomain(
  platform: Platform,
  tenantId: string,
  row: DomainRow,
  domain: string | null,
): Promise<void> {
  await transaction(platform.pool, async (db) => {
    await db.query("select pg_advisory_xact_lock(724001)");
    if (domain) await assertFree(db, tenantId, domain);
    const stored = domain
      ? await db.query(
          `update tenant_domains set verified_at = coalesce(verified_at, now()), checked_at = now(), last_error = null
           where tenant_id = $1 and kind = $2 and domain = $3 and token = $4`,
          [tenantId, row.kind, domain, row.token],
        )
      : await db.query("delete from tenant_domains where tenant_id = $1 and kind = $2", [tenantId, row.kind]);
    if (stored.rowCount === 0)
      throw new PlatformError("CONFLICT", "The domain was changed while it was verified. Verify again.");
    await db.query(`update tenants set ${columns[row.kind]} = $2 where id = $1`, [tenantId, domain]);
    await bumpRoutesIn(db, tenantId);
    await db.query(
      "update deployments set next_look_at = now() where tenant_id = $1 and state <> 'deleted'",
      [tenantId],
    );
    await recordIn(db, {
      tenantId,
      type: domain ? "tenant_domain.verified" : "tenant_domain.removed",
      resourceType: "tenant",
      resourceId: tenantId,
      data: { kind: row.kind, domain: row.domain },
    });
  });
  platform.signals.announce("work:deployments", "routes", "events");
}

async function verify(platform: Platform, caller: Caller, kind: DomainKind, settings: DomainSettings) {
  assertWholeTenant(caller, "The domain");
  const row = await loadDomain(platform.pool, caller.tenantId, kind);
  if (!row) throw notFound(`A ${kind} domain`);
  const tenant = (await tenantById(platform.pool, caller.tenantId))!;
  const found = await checkRecords(tenant, row, settings.dnsServers);
  if (found.reason === null) await useDomain(platform, tenant.id, row, row.domain);
  else {
    await platform.pool.query(
      "update tenant_domains set checked_at = now(), last_error = $3 where tenant_id = $1 and kind = $2",
      [tenant.id, kind, found.reason],
    );
  }
  return {
    verified: found.reason === null,
    domain: row.domain,
    target: tenant.domain,
    records: found.records,
    reason: found.reason,
    message: found.message,
  };
}

export function tenantDomainHandlers(platform: Platform, settings: DomainSettings): Handler[] {
  const show = async (caller: Caller, kind: DomainKind) =>
    view(
      (await tenantById(platform.pool, caller.tenantId))!,
      kind,
      await loadDomain(platform.pool, caller.tenantId, kind),
    );
  const routesOf = (kind: DomainKind) => {
    const r = kind === "preview" ? previewDomainRoutes : deploymentDomainRoutes;
    return [
      handler(r.get, async ({ caller }) => show(caller, kind)),
      handler(r.put, async ({ caller, body }) => {
        await setTenantDomain(platform, caller, kind, body[columns[kind]] ?? body.domain ?? "");
        return show(caller, kind);
      }),
      handler(r.verify, async ({ caller }) => verify(platform, caller, kind, settings)),
      handler(r.remove, async ({ caller }) => {
        assertWholeTenant(caller, "The domain");
        const row = await loadDomain(platform.pool, caller.tenantId, kind);
        if (row) await useDomain(platform, caller.tenantId, row, null);
        return { deleted: true, ...(await show(caller, kind)) };
      }),
    ];
  };
  return [...routesOf("preview"), ...routesOf("deployment")];
}
