import { z } from "zod";
import { Metadata, Name, NoBody, Slug } from "./fields.ts";
import { defineRoute } from "./route.ts";

const Flag = z.string().optional().describe("true or false");
const Description = z.string().max(2_000);

const workspaceTag = "Workspaces";
const workspace = { tag: workspaceTag, envelope: "data" } as const;

export const workspaceRoutes = {
  list: defineRoute({
    id: "listWorkspaces",
    method: "GET",
    path: "/workspaces",
    summary: "Workspaces that the key may see",
    ...workspace,
    scope: "projects:read",
  }),
  create: defineRoute({
    id: "createWorkspace",
    method: "POST",
    path: "/workspaces",
    summary: "Create a workspace",
    ...workspace,
    status: 201,
    scope: "projects:write",
    idempotent: true,
    body: z.object({
      name: Name,
      slug: Slug.optional(),
      description: Description.optional(),
      metadata: Metadata.optional(),
    }),
    problems: ["NAME_TAKEN"],
  }),
  get: defineRoute({
    id: "getWorkspace",
    method: "GET",
    path: "/workspaces/:id",
    summary: "A workspace, by id or slug",
    ...workspace,
    scope: "projects:read",
  }),
  update: defineRoute({
    id: "updateWorkspace",
    method: "PATCH",
    path: "/workspaces/:id",
    summary: "Change a workspace",
    ...workspace,
    scope: "projects:write",
    body: z.object({
      name: Name.optional(),
      description: Description.optional(),
      metadata: Metadata.optional(),
    }),
  }),
  remove: defineRoute({
    id: "deleteWorkspace",
    method: "DELETE",
    path: "/workspaces/:id",
    summary: "Delete a workspace; refused while it holds something, unless forced",
    ...workspace,
    scope: "projects:write",
    query: z.looseObject({ force: Flag, dry_run: Flag }),
    problems: ["CONFLICT"],
  }),
  inventory: defineRoute({
    id: "getWorkspaceInventory",
    method: "GET",
    path: "/workspaces/:id/inventory",
    summary: "What the workspace holds, by type",
    ...workspace,
    scope: "projects:read",
  }),
  projects: defineRoute({
    id: "listProjects",
    method: "GET",
    path: "/projects",
    summary: "Projects",
    tag: "Projects",
    envelope: "data",
    scope: "projects:read",
    query: z.looseObject({ workspace_id: z.string().optional() }),
  }),
  createProject: defineRoute({
    id: "createProject",
    method: "POST",
    path: "/projects",
    summary: "Create a project",
    tag: "Projects",
    envelope: "data",
    status: 201,
    scope: "projects:write",
    idempotent: true,
    body: z.object({
      name: Name,
      slug: Slug.optional(),
      description: Description.optional(),
      workspace_id: z.string().optional(),
      workspace_slug: z.string().optional(),
    }),
    problems: ["NAME_TAKEN"],
  }),
  project: defineRoute({
    id: "getProject",
    method: "GET",
    path: "/projects/:id",
    summary: "A project",
    tag: "Projects",
    envelope: "data",
    scope: "projects:read",
  }),
} as const;

/** An empty text clears a value: clients leave out null. */
const orEmpty = <T extends z.ZodType>(shape: T) => z.union([z.literal(""), shape]).optional();
const Color = orEmpty(
  z
    .string()
    .regex(/^#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})$/, "a hexadecimal colour such as #1a73e8"),
);
const isSafeUrl = (text: string): boolean => {
  if (/[\s"'<>\\]/.test(text)) return false;
  if (text.startsWith("/")) return !text.startsWith("//");
  if (!URL.canParse(text) || new URL(text).username !== "") return false;
  const { protocol, hostname } = new URL(text);
  // An installation on one machine serves its own images without TLS.
  return protocol === "https:" || (protocol === "http:" && /(?:^|\.)localhost$/.test(hostname));
};
const Url = orEmpty(
  z.string().max(2_048).refine(isSafeUrl, "an https URL, or a path that begins with a single /"),
);
const Line = orEmpty(
  z
    .string()
    .trim()
    .max(120)
    .regex(/^[^\p{Cc}<>]*$/u, "plain text without control characters or angle brackets"),
);
const Email = orEmpty(z.email().max(254));

/** Kinds of pages on which a tenant's own words can stand; `default`: all that have none of their own. */
export const brandedPageKinds = [
  ...["default", "not_found", "file_not_found", "starting", "start_failed", "stopped", "build_failed"],
  ...["over_quota", "error", "timeout", "unavailable", "maintenance", "certificate_pending", "busy"],
  ...["rate_limited", "private", "sandbox_not_found", "port_closed"],
] as const;
/** Languages of the platform's own pages. */
export const pageLanguages = ["en", "es", "fr", "de"] as const;

const pageKeys = new RegExp(`^(?:${brandedPageKinds.join("|")})(?:\\.(?:${pageLanguages.join("|")}))?$`);
const Pages = z
  .record(
    z.string().regex(pageKeys, "a page such as not_found, or with a language not_found.es"),
    z.string().max(24 * 1024),
  )
  .describe(
    "HTML by kind of page. Variables such as {{title}} are escaped; scripts and outside assets are refused",
  )
  .optional();
const LegalLinks = z
  .array(
    z.object({
      label: z
        .string()
        .trim()
        .min(1)
        .max(60)
        .regex(/^[^\p{Cc}<>]*$/u, "plain text without control characters or angle brackets"),
      url: z.string().max(2_048).refine(isSafeUrl, "an https URL, or a path that begins with a single /"),
    }),
  )
  .max(6)
  .optional();
const FontFamily = orEmpty(
  z
    .string()
    .max(200)
    .regex(/^[A-Za-z0-9 ,'"-]+$/, 'names of fonts such as "Inter", Arial'),
);

/** What one app's pages can differ in from its tenant's. */
const PageLook = {
  custom_font_url: Url,
  brand_font_family: FontFamily,
  legal_links: LegalLinks,
  default_language: z.union([z.literal(""), z.enum(pageLanguages)]).optional(),
  custom_pages: Pages,
};

export const BrandingFields = z.object({
  custom_app_name: Line,
  custom_logo_url: Url,
  custom_logo_light_url: Url,
  custom_favicon_url: Url,
  brand_color_primary: Color,
  brand_color_secondary: Color,
  brand_color_accent: Color,
  email_sender_name: Line,
  email_sender_address: Email,
  support_email: Email,
  support_url: Url,
  powered_by_visible: z.boolean().optional(),
  email_hero_url: Url,
  desktop_wallpaper_url: Url,
  ...PageLook,
  reserved_cookies: z
    .array(
      z
        .string()
        .regex(/^[!#$%&'+.^_`|~0-9A-Za-z-]{2,100}\*?$/, "the name of a cookie, or its beginning and *"),
    )
    .max(50)
    .describe("Cookies of the tenant's own sites: apps below the same domain neither see nor set them")
    .optional(),
});
export type BrandingFields = z.output<typeof BrandingFields>;

export const AppBranding = BrandingFields.pick({
  custom_app_name: true,
  custom_logo_url: true,
  custom_logo_light_url: true,
  custom_favicon_url: true,
  brand_color_primary: true,
  brand_color_secondary: true,
  brand_color_accent: true,
  support_email: true,
  support_url: true,
  custom_font_url: true,
  brand_font_family: true,
  legal_links: true,
  default_language: true,
  custom_pages: true,
});
export type AppBranding = z.output<typeof AppBranding>;

export const OldBranding = z.object({
  product_name: Line,
  logo_url: Url,
  support_url: Url,
  support_email: Email,
  primary_color: Color,
  background_color: Color,
});
export type OldBranding = z.output<typeof OldBranding>;

const brandTag = "Branding";
const branding = { tag: brandTag, envelope: "top" } as const;
const domain = { tag: brandTag, envelope: "data" } as const;
const SetDomain = z.object({
  domain: z.string().max(253).optional(),
  preview_domain: z.string().max(253).optional(),
  deployment_domain: z.string().max(253).optional(),
});

function domainRoutes(kind: "preview" | "deployment") {
  const path = `/tenant/${kind}-domain`;
  const title = kind === "preview" ? "Preview" : "Deployment";
  return {
    get: defineRoute({
      id: `getTenant${title}Domain`,
      method: "GET",
      path,
      summary: `The tenant's ${kind} domain`,
      ...domain,
      scope: "domains:read",
    }),
    put: defineRoute({
      id: `setTenant${title}Domain`,
      method: "PUT",
      path,
      summary: `Set the ${kind} domain; used once verified`,
      ...domain,
      scope: "domains:write",
      body: SetDomain,
      problems: ["DOMAIN_TAKEN"],
    }),
    verify: defineRoute({
      id: `verifyTenant${title}Domain`,
      method: "POST",
      path: `${path}/verify`,
      summary: "Look the DNS records up",
      ...domain,
      scope: "domains:write",
      body: NoBody,
      problems: ["DOMAIN_TAKEN"],
    }),
    remove: defineRoute({
      id: `deleteTenant${title}Domain`,
      method: "DELETE",
      path,
      summary: "Return to the brand's own domain",
      ...domain,
      scope: "domains:write",
    }),
  };
}

export const brandingRoutes = {
  get: defineRoute({
    id: "getBranding",
    method: "GET",
    path: "/settings/branding",
    summary: "How the tenant's pages look",
    ...branding,
    scope: null,
  }),
  put: defineRoute({
    id: "setBranding",
    method: "PUT",
    path: "/settings/branding",
    summary: "Change the look; an empty text clears a value",
    ...branding,
    scope: "projects:write",
    body: z.object({ ...BrandingFields.shape, preview_domain: z.string().max(253).optional() }),
  }),
  uploadAsset: defineRoute({
    id: "uploadBrandingAsset",
    method: "POST",
    path: "/settings/branding/assets/:kind",
    summary: "Upload an image of at most 2 MiB, or a WOFF2 font, as multipart field `file`; answers {url}",
    tag: brandTag,
    // The body is read as it comes, so the handler answers by itself.
    envelope: "raw",
    scope: "projects:write",
    problems: ["PAYLOAD_TOO_LARGE"],
  }),
  getApp: defineRoute({
    id: "getAppBranding",
    method: "GET",
    path: "/settings/branding/apps/:id",
    summary: "In what the pages of one deployment or sandbox differ from the tenant's",
    ...branding,
    scope: null,
  }),
  putApp: defineRoute({
    id: "setAppBranding",
    method: "PUT",
    path: "/settings/branding/apps/:id",
    summary: "Change the pages of one deployment or sandbox; an empty text clears a value",
    ...branding,
    scope: "projects:write",
    body: AppBranding,
  }),
  removeApp: defineRoute({
    id: "resetAppBranding",
    method: "DELETE",
    path: "/settings/branding/apps/:id",
    summary: "Give one deployment or sandbox the tenant's look again",
    ...branding,
    scope: "projects:write",
  }),
  getOld: defineRoute({
    id: "getTenantBranding",
    method: "GET",
    path: "/tenant/branding",
    summary: "The look, in the older form",
    ...branding,
    scope: null,
  }),
  putOld: defineRoute({
    id: "setTenantBranding",
    method: "PUT",
    path: "/tenant/branding",
    summary: "Change the look, in the older form",
    ...branding,
    scope: "projects:write",
    body: z.object({ branding: OldBranding }),
  }),
  removeOld: defineRoute({
    id: "resetTenantBranding",
    method: "DELETE",
    path: "/tenant/branding",
    summary: "Return to the plain look",
    ...branding,
    scope: "projects:write",
  }),
} as const;

export const previewDomainRoutes = domainRoutes("preview");
export const deploymentDomainRoutes = domainRoutes("deployment");
