import { Readable } from "node:stream";
import { notFound, PlatformError } from "@platform/contract";
import { HostError, type HostedDatabase } from "@platform/host-api";
import { query, queryOne, type Queryable } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import { derivedId, type Call } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { contentOf, loadBackup, requestBackup } from "./backups.ts";
import { baseFor, withLog } from "./point-in-time.ts";
import { DamagedStreamError } from "./sealed-stream.ts";
import { specOf } from "./spec.ts";
import { loadDatabase, type DatabaseRow } from "./store.ts";

type Source = NonNullable<DatabaseRow["source"]>;

/** A row like another one, whose first content the reconciler brings; the caller announces it. */
async function insertCopyIn(
  db: Queryable,
  id: string,
  like: DatabaseRow,
  name: string,
  source: Source,
  version = like.engine_version,
  ownerSandboxId: string | null = null,
): Promise<void> {
  const inserted = await db.query(
    `insert into databases (id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id,
       metadata, name, engine, engine_version, cpu_count, memory_mb, storage_mb, region, environment_id, host_key, source, owner_sandbox_id)
     select $1, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id,
       metadata, $3, engine, $6, cpu_count, memory_mb, storage_mb, region, environment_id, $4, $5, $7
     from databases where id = $2 on conflict (id) do nothing`,
    [id, like.id, name, `db-${id}`, JSON.stringify(source), version, ownerSandboxId],
  );
  if (inserted.rowCount === 1) {
    await recordIn(db, {
      tenantId: like.tenant_id,
      workspaceId: like.workspace_id,
      type: "database.created",
      resourceType: "database",
      resourceId: id,
      data: { id, name, engine: like.engine, source },
    });
  }
}

async function insertCopy(
  platform: Platform,
  id: string,
  like: DatabaseRow,
  name: string,
  source: Source,
  version?: string,
): Promise<DatabaseRow> {
  await insertCopyIn(platform.pool, id, like, name, source, version);
  platform.signals.announce("work:databases", "events");
  return (await loadDatabase(platform.pool, id))!;
}

/**
 * Gives a new sandbox a branch of each database that another one is linked to. They are the sandbox's own and end
 * with it, unless something else was linked to them meanwhile.
 */
export async function branchLinks(
  db: Queryable,
  fromSandboxId: string,
  sandbox: { readonly id: string; readonly slug: string },
): Promise<void> {
  const links = await query<{ database_id: string; env_name: string }>(
    db,
    "select database_id, env_name from database_links where resource_type = 'sandbox' and resource_id = $1",
    [fromSandboxId],
  );
  for (const { database_id, env_name } of links) {
    const like = await loadDatabase(db, database_id);
    if (like?.state !== "running")
      throw new PlatformError(
        "DATABASE_NOT_READY",
        `The linked database ${like?.name ?? database_id} is ${like?.state ?? "gone"}, so it has no content to branch. Retry when it runs.`,
        { details: { database_id, state: like?.state ?? null }, retryAfterMs: 2000 },
      );
    const id = derivedId(sandbox.id, "branch", database_id);
    const name = `${like.name.slice(0, 40)}-${sandbox.slug}`;
    await insertCopyIn(db, id, like, name, { database_id }, undefined, sandbox.id);
    await db.query(
      `insert into database_links (database_id, resource_type, resource_id, env_name) values ($1, 'sandbox', $2, $3) on conflict do nothing`,
      [id, sandbox.id, env_name],
    );
  }
}

/** Ends the branches of a sandbox that is gone; those that something else uses by now go on as anybody's. */
export async function endBranchesOf(platform: Platform, sandboxId: string): Promise<void> {
  const isUsed = "exists (select 1 from database_links l where l.database_id = databases.id)";
  await platform.pool.query(
    `update databases set owner_sandbox_id = null where owner_sandbox_id = $1 and ${isUsed}`,
    [sandboxId],
  );
  const { rowCount } = await platform.pool.query(
    `update databases set desired = 'deleted', generation = generation + 1, next_look_at = now(), updated_at = now()
     where owner_sandbox_id = $1 and desired <> 'deleted' and not ${isUsed}`,
    [sandboxId],
  );
  if (rowCount) platform.signals.announce("work:databases");
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
