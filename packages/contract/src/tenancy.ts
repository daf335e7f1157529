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
});
export type BrandingFields = z.output<typeof BrandingFields>;

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
    summary: "Upload an image of at most 2 MiB as multipart field `file`; answers {url}",
    tag: brandTag,
    // The body is read as it comes, so the handler answers by itself.
    envelope: "raw",
    scope: "projects:write",
    problems: ["PAYLOAD_TOO_LARGE"],
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
