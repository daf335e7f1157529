import { CreateSandbox, sandboxRoutes } from "@platform/contract";
import type { Call } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { liveSandbox } from "./access.ts";
import { ownEnvironment } from "./box-spec.ts";
import { createSandbox, snapshotContent } from "./create.ts";
import { loadSandbox, ownSandbox, type SandboxContent, type SandboxRow } from "./store.ts";

/** A copy of the files as they are now, or as they were in a snapshot. The original keeps running. */
export async function forkSandbox(
  platform: Platform,
  call: Call<typeof sandboxRoutes.fork>,
): Promise<SandboxRow> {
  const id = call.idFor("sandbox");
  const found = await loadSandbox(platform.pool, id);
  if (found) return found;
  const source = await ownSandbox(platform.pool, call.caller, call.params["id"]!);
  const body = call.body ?? {};
  let content: SandboxContent;
  if (body.snapshot_id) content = await snapshotContent(platform, call as unknown as Call, body.snapshot_id);
  else {
    const { row } = await liveSandbox(platform, call.caller, source.id);
    const snapshotKey = `fork-${id}`;
    await platform.host.putSnapshot(snapshotKey, row.box_key, call.signal);
    content = { type: "snapshot", snapshotKey, temporary: true };
  }
  const input = CreateSandbox.parse({
    template_id: body.template_id ?? source.template_id,
    ...(source.size === "custom" ? {} : { size: source.size }),
    cpu_count: source.cpu_count,
    memory_mb: source.memory_mb,
    disk_size_mb: source.disk_size_mb,
    name: body.name,
    persistent: source.persistent,
    timeout_sec: body.timeout_sec ?? source.timeout_sec,
    idle_timeout_sec: source.idle_timeout_sec,
    tags: Object.keys(source.tags as object).length > 0 ? source.tags : undefined,
    metadata: { ...source.metadata, ...body.metadata },
    services: [],
    external_workspace_id: source.external_workspace_id ?? undefined,
    external_user_id: body.external_user_id ?? source.external_user_id ?? undefined,
    external_project_id: source.external_project_id ?? undefined,
    workspace_id: source.workspace_id ?? undefined,
    project_id: source.project_id ?? undefined,
  });
  return createSandbox(platform, call as unknown as Call, input, {
    content,
    env: ownEnvironment(platform, source),
  });
}
