import { query, transaction, type Queryable } from "@platform/postgres";
import { putRoute } from "../edges/index.ts";
import type { Platform } from "../platform.ts";
import { previewDomain, type Tenant } from "../tenants/index.ts";

/** Clients put `api.` before the domain that they are given, and `PORT-ID.` before the same for a sandbox. */
export const clientApiHostname = (tenant: Tenant): string => `api.${previewDomain(tenant)}`;

/** Also after a tenant changed its preview domain: what lacks its route gets it. */
export async function ensureClientApiRoutes(platform: Platform): Promise<void> {
  const tenants = await query<Tenant>(
    platform.pool,
    `select * from tenants t where not exists (select 1 from routes r where r.tenant_id = t.id and r.kind = 'api'
       and r.target is not null and r.hostname = 'api.sandbox.' || coalesce(t.preview_domain, t.domain))`,
  );
  for (const tenant of tenants) await transaction(platform.pool, (db) => putClientApiRoute(db, tenant));
  if (tenants.length > 0) platform.signals.announce("routes");
}

const putClientApiRoute = (db: Queryable, tenant: Tenant) =>
  putRoute(db, {
    hostname: clientApiHostname(tenant),
    tenantId: tenant.id,
    kind: "api",
    target: { type: "control-plane" },
  });
