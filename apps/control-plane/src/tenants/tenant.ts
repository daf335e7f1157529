import { queryOne, type Queryable } from "@platform/postgres";
import type { Settings } from "../platform.ts";

export interface Tenant {
  readonly id: string;
  readonly slug: string;
  readonly name: string;
  readonly plan: string;
  readonly domain: string;
  readonly preview_domain: string | null;
  readonly deployment_domain: string | null;
  readonly branding: Record<string, unknown>;
  readonly policy: Record<string, unknown>;
  readonly created_at: Date;
}

export const tenantById = (db: Queryable, id: string) =>
  queryOne<Tenant>(db, "select * from tenants where id = $1", [id]);

/** The tenant whose brand, preview or deployment domain the host name is or lies under. */
export async function tenantByHostname(db: Queryable, hostname: string): Promise<Tenant | null> {
  return queryOne<Tenant>(
    db,
    `select * from tenants where $1 = domain or $1 like '%.' || domain or $1 like '%.' || preview_domain or $1 like '%.' || deployment_domain
     order by length(domain) desc limit 1`,
    [hostname.toLowerCase()],
  );
}

/** `sandbox.` below the preview domain; both tenant domains default to the brand's own. */
export const previewDomain = (tenant: Tenant) => `sandbox.${tenant.preview_domain ?? tenant.domain}`;
export const previewHostname = (tenant: Tenant, slug: string, port: number | null) =>
  `${port === null ? slug : `${port}-${slug}`}.${previewDomain(tenant)}`;
export const deploymentHostname = (tenant: Tenant, slug: string) =>
  `${slug}.${tenant.deployment_domain ?? tenant.domain}`;
export const apiHostname = (tenant: Tenant) => `api.${tenant.domain}`;
export const storageHostname = (tenant: Tenant) => `s3.${tenant.domain}`;

export function publicUrl(settings: Settings, hostname: string): string {
  const port = settings.publicPort === null ? "" : `:${settings.publicPort}`;
  return `${settings.publicScheme}://${hostname}${port}`;
}

const text = (value: unknown): string | null => (typeof value === "string" && value !== "" ? value : null);

/** What a page of the control plane shows; colours that are not plain hexadecimal are ignored. */
export function brandOf(tenant: Tenant): { name: string; domain: string; colorPrimary: string } {
  const color = text(tenant.branding["brand_color_primary"]);
  return {
    name: text(tenant.branding["custom_app_name"]) ?? tenant.name,
    domain: tenant.domain,
    colorPrimary: color && /^#[0-9a-fA-F]{3,8}$/.test(color) ? color : "#2563eb",
  };
}
