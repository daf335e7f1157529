import { Readable } from "node:stream";
import { notFound, PlatformError } from "@platform/contract";
import { HostError, type HostedDatabase } from "@platform/host-api";
import { queryOne } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import { derivedId, type Call } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { contentOf, loadBackup, requestBackup } from "./backups.ts";
import { baseFor, withLog } from "./point-in-time.ts";
import { DamagedStreamError } from "./sealed-stream.ts";
import { specOf } from "./spec.ts";
import { loadDatabase, type DatabaseRow } from "./store.ts";

type Source = NonNullable<DatabaseRow["source"]>;

/** A row like another one, whose first content the reconciler brings. */
async function insertCopy(
  platform: Platform,
  id: string,
  like: DatabaseRow,
  name: string,
  source: Source,
  version = like.engine_version,
): Promise<DatabaseRow> {
  const inserted = await platform.pool.query(
    `insert into databases (id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id,
       metadata, name, engine, engine_version, cpu_count, memory_mb, storage_mb, region, environment_id, host_key, source)
     select $1, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id,
       metadata, $3, engine, $6, cpu_count, memory_mb, storage_mb, region, environment_id, $4, $5
     from databases where id = $2 on conflict (id) do nothing`,
    [id, like.id, name, `db-${id}`, JSON.stringify(source), version],
  );
  if (inserted.rowCount === 1) {
    await recordIn(platform.pool, {
      tenantId: like.tenant_id,
      workspaceId: like.workspace_id,
      type: "database.created",
      resourceType: "database",
      resourceId: id,
      data: { id, name, engine: like.engine, source },
    });
  }
  platform.signals.announce("work:databases", "events");
  return (await loadDatabase(platform.pool, id))!;
}

/** The original stays as it is. @throws PlatformError NOT_FOUND, DATABASE_NOT_READY */
export async function restoreBackup(
  platform: Platform,
  call: Call,
  row: DatabaseRow,
  wanted: { backup_id?: string | undefined; target_time?: string | undefined; name?: string | undefined },
): Promise<DatabaseRow> {
  const copyName = wanted.name ?? `${row.name.slice(0, 40)}-restored`;
  if (wanted.target_time !== undefined) {
    const base = await baseFor(platform, row, new Date(wanted.target_time));
    const source = { backup_id: base.id, target_time: new Date(wanted.target_time).toISOString() };
    return insertCopy(
      platform,
      call.idFor("restored"),
      row,
      copyName,
      source,
      base.engine_version ?? undefined,
    );
  }
  if (wanted.backup_id === undefined) throw new Error("either a backup or a moment is asked for");
  const backup = await loadBackup(platform.pool, wanted.backup_id);
  if (!backup || backup.database_id !== row.id || backup.state === "expired")
    throw notFound(`Backup ${wanted.backup_id}`);
  if (backup.state !== "completed")
    throw new PlatformError(
      "DATABASE_NOT_READY",
      `The backup is ${backup.state}${backup.error ? ` (${backup.error})` : ""}. Restore one whose state is completed.`,
      { details: { state: backup.state, reason: backup.reason }, retryAfterMs: 2000 },
    );
  // An upgrade may lie between: a backup is read by a server of its own version.
  const version = backup.engine_version ?? undefined;
  return insertCopy(platform, call.idFor("restored"), row, copyName, { backup_id: backup.id }, version);
}

export function branchDatabase(
  platform: Platform,
  call: Call,
  row: DatabaseRow,
  name = `${row.name.slice(0, 40)}-branch`,
): Promise<DatabaseRow> {
  return insertCopy(platform, call.idFor("branch"), row, name, { database_id: row.id });
}

/** Makes the server of a copy. Safe to run again: the host makes one for a key. */
export async function fillFromSource(
  platform: Platform,
  row: DatabaseRow,
  signal: AbortSignal,
): Promise<HostedDatabase> {
  const spec = specOf(platform, row);
  if (row.source?.backup_id) {
    const backup = await loadBackup(platform.pool, row.source.backup_id);
    if (!backup) throw notFound(`Backup ${row.source.backup_id}`);
    let damage: unknown = null;
    const targetTime = row.source.target_time ?? null;
    try {
      const base = contentOf(platform, backup, signal);
      base.once("error", (error) => (damage = error));
      const content =
        targetTime === null
          ? base
          : Readable.from(withLog(platform, backup, base, new Date(targetTime), signal));
      content.once("error", (error) => (damage ??= error));
      return await platform.host.restore(row.host_key, { spec, targetTime }, content, signal);
    } catch (error) {
      const cause = damage ?? error;
      if (!(cause instanceof DamagedStreamError)) throw error;
      // No repetition makes it whole, and of the half of it nothing stays.
      await platform.host.deleteDatabase(row.host_key, signal);
      throw new HostError("INVALID", 422, cause.message, { reason: "damaged" }, { cause });
    }
  }
  const from = await loadDatabase(platform.pool, row.source?.database_id ?? "");
  if (!from) throw notFound("The database that this one is a copy of");
  return platform.host.copyDatabase(row.host_key, from.host_key, spec, signal);
}

/** One backup per period, whichever control plane sees first that it is due. */
export async function scheduleBackup(platform: Platform, row: DatabaseRow): Promise<void> {
  const policy = row.backup_policy;
  if (!policy) return;
  const periodMs = policy.every_hours * 3_600_000;
  const period = Math.floor((Date.now() - row.created_at.getTime()) / periodMs);
  const id = derivedId(row.id, "scheduled-backup", String(policy.every_hours), String(period));
  if (!(await loadBackup(platform.pool, id))) await requestBackup(platform, row, "scheduled", id);
}

/** Without a policy, as long as its default says; days. */
const keptDays = 7;

/** With the database its other backups go too, not sooner than its last one. */
export async function lastBackupsExpire(platform: Platform, row: DatabaseRow): Promise<void> {
  await platform.pool.query(
    `update database_backups set expires_at = now() + $2 * interval '1 day', next_look_at = now()
     where database_id = $1 and expires_at is null`,
    [row.id, row.backup_policy?.final_days ?? keptDays],
  );
}

/** A database whose policy says so is deleted only once its last backup was made, or was given up. */
export async function lastBackupGoesOn(platform: Platform, row: DatabaseRow): Promise<boolean> {
  const days = row.backup_policy?.final_days ?? 0;
  if (days === 0) return false;
  const id = derivedId(row.id, "final-backup");
  const known = await loadBackup(platform.pool, id);
  if (!known) {
    // Of a server that does not answer nothing can be saved.
    if (row.state !== "running") return false;
    await requestBackup(platform, row, "final", id);
    return true;
  }
  if (known.state === "pending" || known.state === "running") return true;
  await queryOne(
    platform.pool,
    `update database_backups set expires_at = now() + $2 * interval '1 day' where id = $1 and expires_at is null returning id`,
    [id, days],
  );
  return false;
}
