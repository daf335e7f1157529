import type { NewRoute } from "../edges/index.ts";
import type { Settings } from "../platform.ts";
import { storageHostname, type Tenant } from "../tenants/index.ts";

/** The tenant's S3 endpoint, with buckets in the path and below it as host names of their own. */
export function storageRoutes(settings: Settings, tenant: Tenant): NewRoute[] {
  if (!settings.objectStore) return [];
  const { url } = settings.objectStore;
  const hostname = storageHostname(tenant);
  return [hostname, `*.${hostname}`].map((name) => ({
    hostname: name,
    tenantId: tenant.id,
    kind: "storage",
    target: { type: "service", url },
  }));
}
