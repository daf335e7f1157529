import {
  AppBranding,
  PlatformError,
  brandingRoutes as r,
  notFound,
  type BrandingFields,
  type OldBranding,
} from "@platform/contract";
import { queryOne, transaction, type Queryable } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import { handler, type Caller, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { bumpRoutesIn, lockRoutes } from "./brand-routes.ts";
import { setTenantDomain } from "./domains.ts";
import { mayUse, type OwnedRow } from "./owned-row.ts";
import { checkedPage } from "./page-template.ts";
import { isUuid } from "./placement.ts";
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
  "custom_font_url",
  "brand_font_family",
  "default_language",
] as const;

const view = (tenant: Tenant) => ({
  ...Object.fromEntries(texts.map((name) => [name, tenant.branding[name] ?? null])),
  legal_links: tenant.branding["legal_links"] ?? [],
  custom_pages: tenant.branding["custom_pages"] ?? {},
  reserved_cookies: tenant.branding["reserved_cookies"] ?? [],
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

/** Bytes of JSON that a look may have, without its images; it travels to every edge. */
const mostLookBytes = 160 * 1024;
const mostAppLooks = 1_000;

type Look = Record<string, unknown>;

/** The look after a change. An empty text clears a value, also that of one page. */
function changed(before: Look, given: Look): Look {
  const after = { ...before };
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) continue;
    if (value === "") delete after[name];
    else if (name === "custom_pages")
      after[name] = changedPages(before[name] ?? {}, value as Record<string, string>);
    else after[name] = value;
  }
  if (Buffer.byteLength(JSON.stringify(after)) > mostLookBytes)
    throw new PlatformError(
      "PAYLOAD_TOO_LARGE",
      `The look is over ${mostLookBytes / 1024} KiB with its pages. Make them smaller, or fewer.`,
    );
  return after;
}

function changedPages(before: object, given: Record<string, string>): Look {
  const pages: Look = { ...before };
  for (const [key, html] of Object.entries(given)) {
    if (html === "") delete pages[key];
    else pages[key] = checkedPage(`custom_pages.${key}`, html);
  }
  return pages;
}

async function note(db: Queryable, tenantId: string, given: Look, appId?: string): Promise<void> {
  await bumpRoutesIn(db, tenantId);
  const fields = Object.keys(given).filter((name) => given[name] !== undefined);
  await recordIn(db, {
    tenantId,
    type: "branding.updated",
    resourceType: "tenant",
    resourceId: tenantId,
    data: { id: tenantId, fields, ...(appId ? { app_id: appId } : {}) },
  });
}

/** @param fields null: nothing of the look stays */
async function change(
  platform: Platform,
  caller: Caller,
  fields: Partial<BrandingFields> | null,
): Promise<Tenant> {
  assertWholeTenant(caller, "The brand");
  const tenant = await transaction(platform.pool, async (db) => {
    const before = await queryOne<Tenant>(db, "select * from tenants where id = $1 for update", [
      caller.tenantId,
    ]);
    const updated = await queryOne<Tenant>(db, "update tenants set branding = $2 where id = $1 returning *", [
      caller.tenantId,
      fields === null ? {} : changed(before!.branding, fields),
    ]);
    await note(db, caller.tenantId, fields ?? {});
    return updated!;
  });
  platform.signals.announce("routes", "events");
  return tenant;
}

/** A deployment or sandbox that the caller may use. */
async function ownApp(db: Queryable, caller: Caller, id: string): Promise<string> {
  const row = isUuid(id)
    ? await queryOne<Pick<OwnedRow, "id" | "tenant_id" | "workspace_id" | "external_user_id">>(
        db,
        `select id, tenant_id, workspace_id, external_user_id from deployments where id = $1 and state <> 'deleted' union all
         select id, tenant_id, workspace_id, external_user_id from sandboxes where id = $1 and state <> 'destroyed'`,
        [id],
      )
    : null;
  if (!row || !mayUse(caller, row)) throw notFound(`Deployment or sandbox ${id}`);
  return row.id;
}

const appLook = async (db: Queryable, appId: string): Promise<Look> =>
  (await queryOne<{ branding: Look }>(db, "select branding from app_brandings where app_id = $1", [appId]))
    ?.branding ?? {};

const appView = (appId: string, look: Look) => ({
  app_id: appId,
  ...Object.fromEntries(Object.keys(AppBranding.shape).map((name) => [name, look[name] ?? null])),
  legal_links: look["legal_links"] ?? null,
  custom_pages: look["custom_pages"] ?? {},
});

/** @param fields null: the tenant's look again */
async function changeApp(platform: Platform, caller: Caller, id: string, fields: AppBranding | null) {
  const appId = await ownApp(platform.pool, caller, id);
  const look = await transaction(platform.pool, async (db) => {
    await lockRoutes(db);
    const after = fields === null ? {} : changed(await appLook(db, appId), fields);
    const isPlain = Object.keys(after).length === 0;
    if (isPlain) await db.query("delete from app_brandings where app_id = $1", [appId]);
    else await storeAppLook(db, caller.tenantId, appId, after);
    await note(db, caller.tenantId, fields ?? {}, appId);
    return after;
  });
  platform.signals.announce("routes", "events");
  return appView(appId, look);
}

async function storeAppLook(db: Queryable, tenantId: string, appId: string, look: Look): Promise<void> {
  // Those of apps that are gone make room first.
  await db.query(
    `delete from app_brandings a where tenant_id = $1
       and not exists (select 1 from deployments d where d.id = a.app_id and d.state <> 'deleted')
       and not exists (select 1 from sandboxes s where s.id = a.app_id and s.state <> 'destroyed')`,
    [tenantId],
  );
  const { rows } = await db.query<{ n: string }>(
    "select count(*) as n from app_brandings where tenant_id = $1 and app_id <> $2",
    [tenantId, appId],
  );
  if (Number(rows[0]!.n) >= mostAppLooks)
    throw new PlatformError(
      "QUOTA_EXCEEDED",
      `${mostAppLooks} apps have a look of their own already. Reset one with DELETE …/settings/branding/apps/:id.`,
    );
  await db.query(
    `insert into app_brandings (app_id, tenant_id, branding) values ($1, $2, $3)
     on conflict (app_id) do update set branding = excluded.branding`,
    [appId, tenantId, look],
  );
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
    handler(r.getApp, async ({ caller, params }) => {
      const appId = await ownApp(platform.pool, caller, params["id"]!);
      return appView(appId, await appLook(platform.pool, appId));
    }),
    handler(r.putApp, async ({ caller, params, body }) => changeApp(platform, caller, params["id"]!, body)),
    handler(r.removeApp, async ({ caller, params }) => changeApp(platform, caller, params["id"]!, null)),
    handler(r.getOld, async ({ caller }) => oldView(await mine(caller))),
    handler(r.putOld, async ({ caller, body }) =>
      oldView(await change(platform, caller, fromOld(body.branding))),
    ),
    handler(r.removeOld, async ({ caller }) => oldView(await change(platform, caller, null))),
  ];
}
