import { platformRoutes as r } from "@platform/contract";
import { query, queryOne } from "@platform/postgres";
import { handler, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { tenantById, type Tenant } from "./tenant.ts";

const view = (tenant: Tenant) => ({
  id: tenant.id,
  name: tenant.name,
  slug: tenant.slug,
  plan: tenant.plan,
  plan_name: tenant.plan,
  credit_balance: 0,
  domain: tenant.domain,
  inserted_at: tenant.created_at.toISOString(),
  created_at: tenant.created_at.toISOString(),
});

async function usageCounts(platform: Platform, tenantId: string) {
  const row = await queryOne<Record<string, string>>(
    platform.pool,
    `select (select count(*) from sandboxes where tenant_id = $1 and state <> 'destroyed') as sandboxes,
            (select count(*) from sandboxes where tenant_id = $1 and state = 'running') as sandboxes_active,
            (select count(*) from deployments where tenant_id = $1 and state <> 'deleted') as deployments,
            (select count(*) from api_keys where tenant_id = $1 and revoked_at is null) as api_keys`,
    [tenantId],
  );
  return Object.fromEntries(Object.entries(row ?? {}).map(([name, count]) => [name, Number(count)]));
}

export function tenantHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const mine = async (tenantId: string) => (await tenantById(pool, tenantId))!;
  return [
    handler(r.whoami, async ({ caller }) => {
      const tenant = await mine(caller.tenantId);
      const workspace = caller.workspaceId
        ? await queryOne<{ id: string; slug: string; name: string }>(
            pool,
            "select id, slug, name from workspaces where id = $1",
            [caller.workspaceId],
          )
        : null;
      return {
        user: null,
        organization: { id: tenant.id, name: tenant.name, slug: tenant.slug },
        tenant: { id: tenant.id, name: tenant.name, slug: tenant.slug },
        workspace,
        plan: { name: tenant.plan },
        auth: {
          key_id: caller.keyId,
          key_name: caller.keyName,
          key_type: caller.keyType,
          scopes: caller.scopes ?? ["*"],
          unrestricted: caller.scopes === null,
        },
      };
    }),
    handler(r.tenants, async ({ caller }) => [view(await mine(caller.tenantId))]),
    handler(r.currentTenant, async ({ caller }) => view(await mine(caller.tenantId))),
    handler(r.plan, async ({ caller }) => {
      const tenant = await mine(caller.tenantId);
      const counts = await usageCounts(platform, tenant.id);
      return {
        id: tenant.plan,
        name: tenant.plan,
        plan: { id: tenant.plan, name: tenant.plan, interval: "month" },
        limits: {},
        usage: { ...counts, credits_used_this_month: 0, credits_balance: 0 },
      };
    }),
    handler(r.regions, async () => ({ regions: [{ id: "local", label: "Local", available: true }] })),
  ];
}

export const allTenants = (platform: Platform) => query<Tenant>(platform.pool, "select * from tenants");
