import { CreateSandbox, PlatformError, sandboxRoutes } from "@platform/contract";
import type { Call } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { liveSandbox, sandboxFailed } from "./access.ts";
import { ownEnvironment } from "./box-spec.ts";
import { snapshotContent, storeSandboxes, type Plan } from "./create.ts";
import { loadSandbox, ownSandbox, type SandboxContent, type SandboxRow } from "./store.ts";

/** The copy is made within this time, or goes on being made after the answer, milliseconds. */
const copyWaitMs = 25_000;

interface Changes {
  readonly name?: string | undefined;
  readonly timeout_sec?: number | undefined;
  readonly template_id?: string | undefined;
  readonly metadata?: Record<string, unknown> | undefined;
  readonly external_user_id?: string | undefined;
}

function inputFrom(source: SandboxRow, changes: Changes, name: string | undefined): CreateSandbox {
  return CreateSandbox.parse({
    template_id: changes.template_id ?? source.template_id,
    ...(source.size === "custom" ? {} : { size: source.size }),
    cpu_count: source.cpu_count,
    memory_mb: source.memory_mb,
    disk_size_mb: source.disk_size_mb,
    name,
    persistent: source.persistent,
    timeout_sec: changes.timeout_sec ?? source.timeout_sec,
    idle_timeout_sec: source.idle_timeout_sec,
    readiness_probe: source.readiness_probe ?? undefined,
    tags: Object.keys(source.tags as object).length > 0 ? source.tags : undefined,
    metadata: { ...source.metadata, ...changes.metadata },
    external_workspace_id: source.external_workspace_id ?? undefined,
    external_user_id: changes.external_user_id ?? source.external_user_id ?? undefined,
    external_project_id: source.external_project_id ?? undefined,
    workspace_id: source.workspace_id ?? undefined,
    project_id: source.project_id ?? undefined,
  });
}

/** Services, environment and database links come along: the copy shall do what the original did. */
const planOf = (
  platform: Platform,
  source: SandboxRow,
  plan: Pick<Plan, "id" | "input" | "content" | "group" | "restoredFrom">,
  database: "share" | "branch" | "none" = "share",
): Plan => ({
  ...plan,
  env: ownEnvironment(platform, source),
  services: source.services,
  linksOf: source.id,
  links: database,
});

/**
 * Copies of the files as they are now, or as they were in a snapshot. The original keeps running. The
 * rows are stored first and say whose files they want; the reconciler copies: a crash between the two
 * neither loses a fork nor leaves a copy that nobody owns.
 */
export async function forkSandbox(
  platform: Platform,
  call: Call<typeof sandboxRoutes.fork>,
): Promise<SandboxRow[]> {
  const body = call.body ?? {};
  const many = body.count !== undefined;
  const ids = many
    ? Array.from({ length: body.count! }, (_, index) => call.idFor(`sandbox-${index}`))
    : [call.idFor("sandbox")];
  const known = await loadSandbox(platform.pool, ids[0]!);
  const source = await ownSandbox(platform.pool, call.caller, call.params["id"]!);
  if (!known && source.state === "provisioning") await liveSandbox(platform, call.caller, source.id);
  if (!known && source.state === "error" && !body.snapshot_id) throw sandboxFailed(source);
  const content: SandboxContent = body.snapshot_id
    ? await snapshotContent(platform, call as unknown as Call, body.snapshot_id)
    : { type: "snapshot", snapshotKey: `fork-${ids[0]!}`, temporary: true, from: source.box_key };
  const groupId = call.idFor("group");
  const rows = await storeSandboxes(
    platform,
    call as unknown as Call,
    ids.map((id, index) =>
      planOf(
        platform,
        source,
        {
          id,
          input: inputFrom(
            source,
            body,
            many && body.name !== undefined ? `${body.name}-${index + 1}` : body.name,
          ),
          content,
          restoredFrom: source.id,
          ...(many ? { group: { id: groupId, index, limit: body.concurrency ?? 8 } } : {}),
        },
        body.database,
      ),
    ),
  );
  await copied(platform, rows[0]!.id, call.signal);
  return Promise.all(rows.map(async (row) => (await loadSandbox(platform.pool, row.id)) ?? row));
}

/** A new sandbox from the disk of a failed one, which stays as it is. */
export async function recoverSandbox(
  platform: Platform,
  call: Call<typeof sandboxRoutes.recover>,
): Promise<SandboxRow> {
  const id = call.idFor("sandbox");
  const source = await ownSandbox(platform.pool, call.caller, call.params["id"]!);
  const known = await loadSandbox(platform.pool, id);
  if (known) return known;
  if (source.state !== "error")
    throw new PlatformError(
      "CONFLICT",
      `The sandbox is ${source.state}; only a failed one is recovered. To copy it, fork it.`,
      { details: { state: source.state } },
    );
  if (!(await platform.host.box(source.box_key, call.signal)))
    throw new PlatformError(
      "CONFLICT",
      "The failed sandbox left no disk: it never started, or its machine is gone. Restore a snapshot, or create a new one.",
      { details: { reason: "no_disk" } },
    );
  const content: SandboxContent = {
    type: "snapshot",
    snapshotKey: `fork-${id}`,
    temporary: true,
    from: source.box_key,
  };
  const plan = planOf(platform, source, {
    id,
    input: inputFrom(source, {}, undefined),
    content,
    restoredFrom: source.id,
  });
  const [row] = await storeSandboxes(platform, call as unknown as Call, [plan]);
  await copied(platform, id, call.signal);
  return (await loadSandbox(platform.pool, id)) ?? row!;
}

/** Waits until the files are copied, so that what happens to the original afterwards is not in the copy. */
async function copied(platform: Platform, id: string, signal: AbortSignal): Promise<void> {
  await platform.signals.until(
    `sandbox:${id}`,
    copyWaitMs,
    async () => {
      const row = await loadSandbox(platform.pool, id);
      const isWaiting = row?.state === "provisioning" && row.content.from !== undefined;
      return isWaiting ? undefined : true;
    },
    signal,
  );
}
