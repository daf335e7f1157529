import { Brand } from "@platform/edge-api";
import { query, type Queryable } from "@platform/postgres";
import { brandOf, type Tenant } from "./tenant.ts";

type Look = Record<string, unknown>;

interface AppLook {
  readonly tenant_id: string;
  readonly app_id: string;
  readonly branding: Look;
}

interface Asset {
  readonly id: string;
  readonly content_type: string;
  readonly bytes: Buffer;
}

/** Most bytes of an asset that travels inside the pages; what is larger is left out of them. */
export const mostInlineBytes = { logo: 64 * 1024, favicon: 32 * 1024, font: 96 * 1024 } as const;

const text = (look: Look, name: string): string | null => {
  const value = look[name];
  return typeof value === "string" && value !== "" ? value : null;
};

/** Id of an uploaded asset in its URL; null for any other URL. */
const assetId = (url: string | null): string | null =>
  /\/branding\/assets\/([0-9a-f-]{36})$/.exec(url ?? "")?.[1] ?? null;

const assetFields = ["custom_logo_url", "custom_logo_light_url", "custom_favicon_url", "custom_font_url"];

/**
 * How the pages of these tenants and of their apps look, whole: an edge shows them with nothing else
 * running, so images and fonts are inside.
 *
 * @param tenantIds null: all tenants
 */
export async function edgeBrands(db: Queryable, tenantIds: readonly string[] | null): Promise<Brand[]> {
  const tenants = await query<Tenant>(db, "select * from tenants where $1::uuid[] is null or id = any($1)", [
    tenantIds,
  ]);
  const apps = await query<AppLook>(
    db,
    "select tenant_id, app_id, branding from app_brandings where $1::uuid[] is null or tenant_id = any($1)",
    [tenantIds],
  );
  const looks = [...tenants.map(({ branding }) => branding), ...apps.map(({ branding }) => branding)];
  const ids = looks.flatMap((look) => assetFields.map((name) => assetId(text(look, name))));
  const found = await query<Asset>(
    db,
    "select id, content_type, bytes from branding_assets where id = any($1) and length(bytes) <= $2",
    [ids.filter((id) => id !== null), Math.max(...Object.values(mostInlineBytes))],
  );
  const assets = new Map(found.map((asset) => [asset.id, asset]));
  const byTenant = new Map(tenants.map((tenant) => [tenant.id, tenant]));
  return [
    ...tenants.map((tenant) => toBrand(tenant, tenant.branding, null, assets)),
    ...apps.flatMap(({ tenant_id, app_id, branding }) => {
      const tenant = byTenant.get(tenant_id);
      return tenant ? [toBrand(tenant, merged(tenant.branding, branding), app_id, assets)] : [];
    }),
  ];
}

/** An app's own values win; its own pages stand beside the tenant's. */
const merged = (tenant: Look, app: Look): Look => ({
  ...tenant,
  ...app,
  custom_pages: { ...(tenant["custom_pages"] as object), ...(app["custom_pages"] as object) },
});

const reservedOf = (names: unknown): string[] =>
  Array.isArray(names) ? names.map((name) => String(name).toLowerCase()) : [];

function toBrand(
  tenant: Tenant,
  look: Look,
  appId: string | null,
  assets: ReadonlyMap<string, Asset>,
): Brand {
  const color = (name: string, standard: string | null) => {
    const value = text(look, name);
    return value && /^#[0-9a-fA-F]{3,8}$/.test(value) ? value : standard;
  };
  const inline = (field: string, kind: keyof typeof mostInlineBytes): string | null => {
    const asset = assets.get(assetId(text(look, field)) ?? "");
    if (!asset || asset.bytes.length > mostInlineBytes[kind]) return null;
    const isFont = asset.content_type.startsWith("font/");
    if (isFont !== (kind === "font")) return null;
    return `data:${asset.content_type};base64,${asset.bytes.toString("base64")}`;
  };
  return Brand.parse({
    tenantId: tenant.id,
    appId,
    name: text(look, "custom_app_name") ?? brandOf(tenant).name,
    domain: tenant.domain,
    domains: [tenant.preview_domain, tenant.deployment_domain].filter(
      (name) => name && name !== tenant.domain,
    ),
    colorPrimary: color("brand_color_primary", "#2563eb"),
    colorBackground: color("brand_color_secondary", "#ffffff"),
    colorAccent: color("brand_color_accent", null),
    fontFamily: text(look, "brand_font_family"),
    logo: inline("custom_logo_url", "logo"),
    logoLight: inline("custom_logo_light_url", "logo"),
    favicon: inline("custom_favicon_url", "favicon"),
    font: inline("custom_font_url", "font"),
    supportUrl: text(look, "support_url"),
    supportEmail: text(look, "support_email"),
    legalLinks: look["legal_links"] ?? [],
    language: text(look, "default_language"),
    reservedCookies: reservedOf(tenant.branding["reserved_cookies"]),
    pages: look["custom_pages"] ?? {},
  });
}
