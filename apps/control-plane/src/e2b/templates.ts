import { allTemplates, findTemplate } from "../templates/index.ts";
import { sandboxSizes } from "@platform/contract";
import { tenantById } from "../tenants/index.ts";
import { ClientProblem } from "./problem.ts";
import type { ClientCall, ClientRoute } from "./route.ts";
import { findSnapshot, withTag } from "./snapshot-names.ts";
import { agentVersion } from "./store.ts";

/** Templates that come with the platform have no build and no maker. */
const noBuild = "00000000-0000-0000-0000-000000000000";

async function list(call: ClientCall) {
  const tenant = (await tenantById(call.platform.pool, call.caller.tenantId))!;
  const { vcpus, memory_mb, disk_size_mb } = sandboxSizes.small;
  return allTemplates().map(({ id, aliases }) => ({
    templateID: id,
    buildID: noBuild,
    cpuCount: vcpus,
    memoryMB: memory_mb,
    diskSizeMB: disk_size_mb,
    public: true,
    aliases: [id, ...aliases],
    names: [id, ...aliases],
    createdAt: tenant.created_at.toISOString(),
    updatedAt: tenant.created_at.toISOString(),
    createdBy: null,
    lastSpawnedAt: null,
    spawnCount: 0,
    buildCount: 0,
    envdVersion: agentVersion,
    buildStatus: "ready",
  }));
}

async function alias(call: ClientCall) {
  const wanted = call.params["alias"]!;
  const template = findTemplate(wanted);
  if (template) return { templateID: template.id, public: true };
  const snapshot = await findSnapshot(call, wanted);
  if (snapshot) return { templateID: snapshot.id, public: false };
  throw new ClientProblem(404, `Template with alias '${wanted}' not found`);
}

async function tags(call: ClientCall) {
  const wanted = call.params["templateID"]!;
  const snapshot = findTemplate(wanted) ? null : await findSnapshot(call, wanted);
  if (!findTemplate(wanted) && !snapshot) throw new ClientProblem(404, `Template '${wanted}' not found`);
  const tenant = (await tenantById(call.platform.pool, call.caller.tenantId))!;
  const createdAt = (snapshot ?? tenant).created_at.toISOString();
  return [{ tag: withTag("").slice(1), buildID: snapshot?.id ?? noBuild, createdAt }];
}

export const templateRoutes: readonly ClientRoute[] = [
  {
    method: "GET",
    path: "/teams",
    scope: null,
    handle: async (call) => {
      const tenant = (await tenantById(call.platform.pool, call.caller.tenantId))!;
      return [{ teamID: tenant.id, name: tenant.name, apiKey: "", isDefault: true }];
    },
  },
  { method: "GET", path: "/templates", scope: "sandboxes:read", handle: list },
  { method: "GET", path: "/templates/aliases/{alias}", scope: "sandboxes:read", handle: alias },
  { method: "GET", path: "/templates/{templateID}/tags", scope: "sandboxes:read", handle: tags },
];
