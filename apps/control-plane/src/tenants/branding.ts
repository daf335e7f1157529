import { brandingRoutes as r, type BrandingFields, type OldBranding } from "@platform/contract";
import { queryOne, transaction, type Queryable } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import { handler, type Caller, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { setTenantDomain } from "./domains.ts";
import { tenantById, type Tenant } from "./tenant.ts";
import { assertWholeTenant } from "./workspaces.ts";

const texts = [
  "custom_app_name",
  "custom_logo_url",
  "custom_logo_light_url",
  "custom_favicon_url",
  "brand_color_primary",
  "brand_color_secondary",
  "brand_color_accent",
  "email_sender_name",
  "email_sender_address",
  "support_email",
  "support_url",
  "email_hero_url",
  "desktop_wallpaper_url",
] as const;

const view = (tenant: Tenant) => ({
  ...Object.fromEntries(texts.map((name) => [name, tenant.branding[name] ?? null])),
  powered_by_visible: tenant.branding["powered_by_visible"] ?? false,
  preview_domain: tenant.preview_domain ?? tenant.domain,
  branding_source: Object.keys(tenant.branding).length > 0 ? "tenant" : "default",
});

const oldView = (tenant: Tenant) => ({
  branding: {
    product_name: tenant.branding["custom_app_name"] ?? null,
    logo_url: tenant.branding["custom_logo_url"] ?? null,
    support_url: tenant.branding["support_url"] ?? null,
    support_email: tenant.branding["support_email"] ?? null,
    primary_color: tenant.branding["brand_color_primary"] ?? null,
    background_color: tenant.branding["brand_color_secondary"] ?? null,
  },
});

const fromOld = (old: OldBranding): Partial<BrandingFields> => ({
  custom_app_name: old.product_name,
  custom_logo_url: old.logo_url,
  support_url: old.support_url,
  support_email: old.support_email,
  brand_color_primary: old.primary_color,
  brand_color_secondary: old.background_color,
});

/**
 * Brands travel with the routes, so a route gets a new version: every edge then asks for what changed
 * and receives the brands anew.
 */
async function bumpRoutesIn(db: Queryable, tenantId: string): Promise<void> {
  // The lock under which all versions are given out, so that they become visible in their order.
  await db.query("select pg_advisory_xact_lock(724002)");
  await db.query(
    `update routes set version = nextval('route_versions') where hostname =
       (select hostname from routes order by (tenant_id = $1) desc, (kind = 'api') desc, hostname limit 1)`,
    [tenantId],
  );
}

/** An empty text clears a value. */
async function change(
  platform: Platform,
  caller: Caller,
  fields: Partial<BrandingFields> | null,
): Promise<Tenant> {
  assertWholeTenant(caller, "The brand");
  const given = Object.entries(fields ?? {}).filter(([, value]) => value !== undefined);
  const set = Object.fromEntries(given.filter(([, value]) => value !== ""));
  const cleared = given.filter(([, value]) => value === "").map(([name]) => name);
  const tenant = await transaction(platform.pool, async (db) => {
    const updated = await queryOne<Tenant>(
      db,
      "update tenants set branding = case when $4 then '{}'::jsonb else (branding || $2::jsonb) - $3::text[] end where id = $1 returning *",
      [caller.tenantId, set, cleared, fields === null],
    );
    await bumpRoutesIn(db, caller.tenantId);
    await recordIn(db, {
      tenantId: caller.tenantId,
      type: "branding.updated",
      resourceType: "tenant",
      resourceId: caller.tenantId,
      data: { id: caller.tenantId, fields: given.map(([name]) => name) },
    });
    return updated!;
  });
  platform.signals.announce("routes", "events");
  return tenant;
}

export function brandingHandlers(platform: Platform): Handler[] {
  const mine = async (caller: Caller) => (await tenantById(platform.pool, caller.tenantId))!;
  return [
    handler(r.get, async ({ caller }) => view(await mine(caller))),
    handler(r.put, async ({ caller, body: { preview_domain, ...fields } }) => {
      const before = await mine(caller);
      // Clients send back what they read: only another name than the one in force is a change.
      const isNew = preview_domain && preview_domain !== (before.preview_domain ?? before.domain);
      if (isNew) await setTenantDomain(platform, caller, "preview", preview_domain);
      return view(await change(platform, caller, fields));
    }),
    handler(r.getOld, async ({ caller }) => oldView(await mine(caller))),
    handler(r.putOld, async ({ caller, body }) =>
      oldView(await change(platform, caller, fromOld(body.branding))),
    ),
    handler(r.removeOld, async ({ caller }) => oldView(await change(platform, caller, null))),
  ];
}
