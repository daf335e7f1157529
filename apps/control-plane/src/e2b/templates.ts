import {
  allTemplates,
  buildsOf,
  findTemplate,
  listOwnTemplates,
  openSpec,
  type TemplateBuildRow,
  type TemplateRow,
} from "../templates/index.ts";
import { ownTemplateOf, statusOf } from "./builds.ts";
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
  const own = await listOwnTemplates(call.platform.pool, call.caller.tenantId);
  const ownEntries = await Promise.all(
    own.map(async (row) => ownEntry(call, row, await buildsOf(call.platform.pool, row.id))),
  );
  const builtIn = allTemplates().map(({ id, aliases }) => ({
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
    buildStatus: "ready" as const,
  }));
  return [...ownEntries, ...builtIn];
}

const noTime = null;

/** A template of the caller's own. */
function ownEntry(call: ClientCall, row: TemplateRow, builds: readonly TemplateBuildRow[]) {
  const { vcpu, memoryMib } = openSpec(call.platform, row);
  const { vcpus, memory_mb, disk_size_mb } = sandboxSizes.small;
  return {
    ...{ templateID: row.id, buildID: row.active_build_id ?? builds[0]?.id ?? noBuild },
    ...{ cpuCount: vcpu ?? vcpus, memoryMB: memoryMib ?? memory_mb, diskSizeMB: disk_size_mb },
    ...{ public: false, aliases: [row.slug], names: [row.slug] },
    ...{ createdAt: row.created_at.toISOString(), updatedAt: row.updated_at.toISOString() },
    ...{ createdBy: null, lastSpawnedAt: noTime, spawnCount: 0, buildCount: builds.length },
    ...{ envdVersion: agentVersion, buildStatus: statusOf(builds[0] ?? null) },
  };
}

async function get(call: ClientCall) {
  const row = await ownTemplateOf(call, call.params["templateID"]!);
  const builds = await buildsOf(call.platform.pool, row.id);
  const {
    templateID,
    public: isPublic,
    aliases,
    names,
    createdAt,
    updatedAt,
    cpuCount,
    memoryMB,
  } = ownEntry(call, row, builds);
  return {
    ...{
      templateID,
      public: isPublic,
      aliases,
      names,
      createdAt,
      updatedAt,
      lastSpawnedAt: noTime,
      spawnCount: 0,
    },
    builds: builds.map((build) => ({
      ...{ buildID: build.id, status: statusOf(build), createdAt: build.created_at.toISOString() },
      updatedAt: (build.finished_at ?? build.started_at ?? build.created_at).toISOString(),
      ...(build.finished_at ? { finishedAt: build.finished_at.toISOString() } : {}),
      ...{ cpuCount, memoryMB, envdVersion: agentVersion },
    })),
  };
}

async function alias(call: ClientCall) {
  const wanted = call.params["alias"]!;
  const template = findTemplate(wanted);
  if (template) return { templateID: template.id, public: true };
  const snapshot = await findSnapshot(call, wanted);
  if (snapshot) return { templateID: snapshot.id, public: false };
  const own = await ownTemplateOf(call, wanted).catch(() => null);
  if (own) return { templateID: own.id, public: false };
  throw new ClientProblem(404, `Template with alias '${wanted}' not found`);
}

async function tags(call: ClientCall) {
  const wanted = call.params["templateID"]!;
  const snapshot = findTemplate(wanted) ? null : await findSnapshot(call, wanted);
  const own = findTemplate(wanted) || snapshot ? null : await ownTemplateOf(call, wanted).catch(() => null);
  if (own)
    return own.active_build_id === null
      ? []
      : [{ tag: "default", buildID: own.active_build_id, createdAt: own.updated_at.toISOString() }];
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
  { method: "GET", path: "/v2/templates", scope: "sandboxes:read", handle: list },
  { method: "GET", path: "/templates/{templateID}", scope: "sandboxes:read", handle: get },
  { method: "GET", path: "/templates", scope: "sandboxes:read", handle: list },
  { method: "GET", path: "/templates/aliases/{alias}", scope: "sandboxes:read", handle: alias },
  { method: "GET", path: "/templates/{templateID}/tags", scope: "sandboxes:read", handle: tags },
];
