import { faultPoint } from "@platform/daemon";
import { PlatformError, notFound, snapshotRoutes as r } from "@platform/contract";
import { HostError } from "@platform/host-api";
import { query, queryOne } from "@platform/postgres";
import { record } from "../events/index.ts";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { assertAllowed, subjectOf } from "../policies/index.ts";
import { isPresent } from "../presence.ts";
import { liveSandbox, loadSandbox, nextBoxKey, ownSandbox, wantSandbox } from "../sandboxes/index.ts";
import { mayUse } from "../tenants/index.ts";

export interface SnapshotRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly sandbox_id: string;
  readonly snapshot_key: string;
  readonly status: "pending" | "ready" | "failed";
  readonly comment: string | null;
  readonly keep: boolean;
  readonly retention_seconds: number | null;
  readonly size_bytes: string | null;
  readonly last_used_at: Date | null;
  readonly expires_at: Date | null;
  readonly sandbox_settings: { readonly template_id: string; readonly size: string };
  readonly error: string | null;
  readonly created_at: Date;
  readonly updated_at: Date;
}

const view = (row: SnapshotRow) => ({
  id: row.id,
  sandbox_id: row.sandbox_id,
  status: row.status,
  comment: row.comment,
  keep: row.keep,
  retention_seconds: row.retention_seconds,
  size_bytes: row.size_bytes === null ? null : Number(row.size_bytes),
  last_used_at: row.last_used_at?.toISOString() ?? null,
  expires_at: row.expires_at?.toISOString() ?? null,
  error: row.error,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
});

const unitSeconds: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };

export interface SnapshotWanted {
  readonly comment?: string | undefined;
  readonly keep?: boolean | undefined;
  readonly retention_seconds?: number | undefined;
  readonly expiration_seconds?: number | undefined;
  readonly expiration_days?: number | undefined;
  readonly expiration?: string | undefined;
}

function retentionOf(wanted: SnapshotWanted): number | null {
  if (wanted.keep) return null;
  if (wanted.expiration)
    return Number(wanted.expiration.slice(0, -1)) * unitSeconds[wanted.expiration.slice(-1)]!;
  return (
    wanted.retention_seconds ??
    wanted.expiration_seconds ??
    (wanted.expiration_days ? wanted.expiration_days * 86_400 : null)
  );
}

export async function ownSnapshot(
  platform: Platform,
  call: Call,
  id: string,
  sandboxId?: string,
): Promise<SnapshotRow> {
  const row = await queryOne<SnapshotRow>(
    platform.pool,
    "select * from snapshots where tenant_id = $1 and id::text = $2",
    [call.caller.tenantId, id],
  );
  if (!row || (sandboxId && row.sandbox_id !== sandboxId)) throw notFound(`Snapshot ${id}`);
  if (call.caller.workspaceId || call.caller.externalUserId) {
    const sandbox = await loadSandbox(platform.pool, row.sandbox_id);
    if (!sandbox || !mayUse(call.caller, sandbox)) throw notFound(`Snapshot ${id}`);
  }
  return row;
}

export async function createSnapshot(
  platform: Platform,
  call: Call,
  wanted: SnapshotWanted,
): Promise<SnapshotRow> {
  const { row: sandbox } = await liveSandbox(platform, call.caller, call.params["id"]!);
  await assertAllowed(platform.pool, subjectOf(sandbox), "snapshot_enabled");
  const id = call.idFor("snapshot");
  const retention = retentionOf(wanted) ?? Number(sandbox.metadata["snapshot_expiration_sec"] ?? NaN);
  await platform.pool.query(
    `insert into snapshots (id, tenant_id, sandbox_id, snapshot_key, comment, keep, retention_seconds, expires_at, sandbox_settings, holder)
     values ($1, $2, $3, $4, $5, $6, $7, now() + interval '1 second' * $7::integer, $8, $9)
     on conflict (id) do update set holder = excluded.holder`,
    [
      id,
      sandbox.tenant_id,
      sandbox.id,
      `sn-${id}`,
      wanted.comment ?? null,
      wanted.keep ?? false,
      Number.isFinite(retention) ? retention : null,
      JSON.stringify({ template_id: sandbox.template_id, size: sandbox.size }),
      platform.holder,
    ],
  );
  faultPoint("control-plane.snapshot.stored");
  try {
    const made = await platform.host.putSnapshot(`sn-${id}`, sandbox.box_key, call.signal);
    await platform.pool.query(
      "update snapshots set status = 'ready', size_bytes = $2, error = null, updated_at = now() where id = $1",
      [id, made.sizeBytes],
    );
  } catch (error) {
    if (!(error instanceof HostError) || error.code === "UNREACHABLE") {
      // Nobody makes it any more; the tidying finds out whether the machine did.
      await platform.pool.query("update snapshots set holder = null where id = $1", [id]);
      throw error;
    }
    await platform.pool.query(
      "update snapshots set status = 'failed', error = $2, updated_at = now() where id = $1",
      [id, error.message],
    );
    throw new PlatformError(
      error.code === "DISK_FULL" ? "DISK_FULL" : "CONFLICT",
      `The snapshot was not made: ${error.message}`,
      { cause: error },
    );
  }
  await record(platform, {
    tenantId: sandbox.tenant_id,
    workspaceId: sandbox.workspace_id,
    type: "snapshot.created",
    resourceType: "snapshot",
    resourceId: id,
    data: { id, sandbox_id: sandbox.id },
  });
  return (await queryOne<SnapshotRow>(platform.pool, "select * from snapshots where id = $1", [id]))!;
}

export async function removeSnapshot(
  platform: Platform,
  row: SnapshotRow,
): Promise<{ id: string; deleted: true }> {
  const dependents = await query<{ id: string; name: string | null; slug: string }>(
    platform.pool,
    "select id, name, slug from sandboxes where tenant_id = $1 and state <> 'destroyed' and content->>'snapshotKey' = $2 and id <> $3",
    [row.tenant_id, row.snapshot_key, row.sandbox_id],
  );
  if (dependents.length > 0) {
    throw new PlatformError(
      "SNAPSHOT_IN_USE",
      `The snapshot is used by ${dependents.length} sandbox${dependents.length === 1 ? "" : "es"}. Delete the fork first.`,
      {
        details: {
          dependents: dependents.map((one) => ({ type: "sandbox", id: one.id, label: one.name ?? one.slug })),
        },
      },
    );
  }
  await platform.host.deleteSnapshot(row.snapshot_key);
  await platform.pool.query("delete from snapshots where id = $1", [row.id]);
  return { id: row.id, deleted: true };
}

/** Removes snapshots whose time is over and that nothing uses, but never the last ones that a sandbox shall keep. */
export async function expireSnapshots(platform: Platform): Promise<void> {
  for (const row of await query<SnapshotRow>(
    platform.pool,
    `select * from (
       select n.*, case when s.metadata->>'keep_last_snapshots' ~ '^[0-9]{1,6}$' then (s.metadata->>'keep_last_snapshots')::int else 0 end as kept,
         row_number() over (partition by n.sandbox_id order by n.created_at desc, n.id) as place
       from snapshots n left join sandboxes s on s.id = n.sandbox_id and s.state <> 'destroyed' where n.status = 'ready') ranked
     where not keep and expires_at < now() and place > kept limit 50`,
  )) {
    await removeSnapshot(platform, row).catch((error: unknown) => {
      if (!(error instanceof PlatformError)) throw error;
    });
  }
}

/** Longer than any request that makes a snapshot runs, milliseconds. */
const settledAfterMs = 10 * 60_000;
/** For what a machine was making when its caller went, milliseconds. */
const madeAfterMs = 5_000;

/**
 * Removes snapshots that no row names: a fork whose request was cut off between its copy and its row. What
 * was being made when its request was cut off becomes what it is on the host.
 */
export async function tidySnapshots(platform: Platform): Promise<void> {
  const found = await platform.host.snapshots();
  const owned = await query<{ key: string }>(
    platform.pool,
    `select snapshot_key as key from snapshots
     union all select content->>'snapshotKey' from sandboxes where state <> 'destroyed' and content->>'snapshotKey' is not null`,
  );
  const names = new Set(owned.map((row) => row.key));
  for (const { key, createdAt } of found) {
    if (names.has(key) || Date.now() - Date.parse(createdAt) < settledAfterMs) continue;
    platform.log.warn({ snapshot: key }, "removing a snapshot that nothing owns");
    await platform.host.deleteSnapshot(key);
  }
  for (const row of await query<SnapshotRow>(
    platform.pool,
    `select * from snapshots where status = 'pending' and (updated_at < now() - $1 * interval '1 millisecond'
       or (updated_at < now() - $2 * interval '1 millisecond' and (holder is null or not ${isPresent("snapshots.holder")}))) limit 50`,
    [settledAfterMs, madeAfterMs],
  )) {
    const made = found.find((one) => one.key === row.snapshot_key);
    await platform.pool.query(
      "update snapshots set status = $2, size_bytes = $3, error = $4, updated_at = now() where id = $1 and status = 'pending'",
      [
        row.id,
        made ? "ready" : "failed",
        made?.sizeBytes ?? null,
        made ? null : "It was cut off while it was made. Delete it and make another one.",
      ],
    );
  }
}

export function snapshotHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const inSandbox = async (call: Call) =>
    ownSnapshot(
      platform,
      call,
      call.params["sid"]!,
      (await ownSandbox(pool, call.caller, call.params["id"]!)).id,
    );
  return [
    handler(r.create, async (call) =>
      view(await createSnapshot(platform, call as unknown as Call, call.body ?? {})),
    ),
    handler(r.createOld, async (call) => {
      const row = await createSnapshot(platform, call as unknown as Call, call.body ?? {});
      return { ...view(row), snapshot_id: row.id };
    }),
    handler(r.list, async (call) => {
      const sandbox = await ownSandbox(pool, call.caller, call.params["id"]!);
      return (
        await query<SnapshotRow>(
          pool,
          "select * from snapshots where sandbox_id = $1 order by created_at desc",
          [sandbox.id],
        )
      ).map(view);
    }),
    handler(r.get, async (call) => view(await inSandbox(call as Call))),
    handler(r.remove, async (call) => removeSnapshot(platform, await inSandbox(call as Call))),
    handler(r.restore, async (call) => {
      const sandbox = await ownSandbox(pool, call.caller, call.params["id"]!);
      const snapshot = await inSandbox(call as unknown as Call);
      if (snapshot.status !== "ready")
        throw new PlatformError("SNAPSHOT_NOT_READY", "The snapshot is not ready. Choose another one.");
      // A new box under the same sandbox id, named after this very call: its repeat finds it made.
      const boxKey = nextBoxKey(sandbox, call.idFor("restore"));
      if (sandbox.box_key !== boxKey) {
        await wantSandbox(platform, sandbox.id, {
          desired: "running",
          state: "provisioning",
          ready: false,
          box_key: boxKey,
          content: JSON.stringify({ type: "snapshot", snapshotKey: snapshot.snapshot_key }),
        });
        faultPoint("control-plane.snapshot.restore-stored");
        await platform.pool.query("update snapshots set last_used_at = now() where id = $1", [snapshot.id]);
        await platform.host.deleteBox(sandbox.box_key);
      }
      const { row } = await liveSandbox(platform, call.caller, sandbox.id);
      return { id: row.id, slug: row.slug, state: row.state, ready: row.ready, restored_from: snapshot.id };
    }),
    handler(r.listAll, async ({ caller }) => {
      const rows = await query<SnapshotRow>(
        pool,
        `select s.* from snapshots s left join sandboxes b on b.id = s.sandbox_id where s.tenant_id = $1
           and ($2::uuid is null or b.workspace_id = $2) and ($3::text is null or b.external_user_id = $3) order by s.created_at desc limit 200`,
        [caller.tenantId, caller.workspaceId, caller.externalUserId],
      );
      return { data: rows.map(view) };
    }),
    handler(r.getAny, async (call) => view(await ownSnapshot(platform, call as Call, call.params["sid"]!))),
    handler(r.removeAny, async (call) =>
      removeSnapshot(platform, await ownSnapshot(platform, call as Call, call.params["sid"]!)),
    ),
  ];
}
