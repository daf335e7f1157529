export {
  apiHostname,
  brandOf,
  deploymentHostname,
  previewDomain,
  previewHostname,
  publicUrl,
  storageHostname,
  tenantByHostname,
  tenantById,
  type Tenant,
} from "./tenant.ts";
export { isUuid, resolvePlacement, slugify } from "./placement.ts";
export { Conditions, ownedBy, page } from "./listing.ts";
export { ensureTenant } from "./bootstrap.ts";
export { tenantHandlers } from "./routes.ts";
export { assertWholeTenant, ownWorkspace, workspaceHandlers } from "./workspaces.ts";
export { ownProject, projectHandlers } from "./projects.ts";
export { brandingHandlers } from "./branding.ts";
export { assetHandlers, registerAssets } from "./assets.ts";
export { tenantDomainHandlers, type DomainSettings } from "./domains.ts";
export { mayUse, type OwnedRow } from "./owned-row.ts";
export { edgeBrands } from "./edge-brands.ts";
