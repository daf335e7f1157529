import { PlatformError } from "@platform/contract";
import { HostError } from "@platform/host-api";
import { queryOne } from "@platform/postgres";
import { record } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { loadArchive } from "./archive.ts";
import { versionOf } from "./create.ts";
import { announce, databaseEvent, notReady, type DatabaseRow, type Upgrade } from "./store.ts";

const dayMs = 24 * 3_600_000;

/** Where an upgrade has been asked for and has not ended. */
export const isChanging = ({ upgrade }: DatabaseRow) =>
  upgrade?.state === "upgrading" || upgrade?.state === "going_back";

const conflict = (message: string, reason: string) =>
  new PlatformError("CONFLICT", message, { details: { reason } });

async function assertQuiet(platform: Platform, row: DatabaseRow): Promise<void> {
  if (isChanging(row))
    throw conflict("The database is changing its version already. Wait for its end.", "upgrading");
  if (row.state !== "running") throw notReady(row);
  if (row.rotation)
    throw conflict(
      "A rotation of its credentials has not ended. Wait for its end, then upgrade.",
      "rotating",
    );
  const unfinished = await queryOne(
    platform.pool,
    "select 1 from database_backups where database_id = $1 and state in ('pending', 'running')",
    [row.id],
  );
  if (unfinished) throw conflict("A backup is being made. Wait for its end, then upgrade.", "backup_running");
  if ((await loadArchive(platform.pool, row.id))?.wanted)
    throw conflict(
      "Its log is kept for point-in-time restores, and the log of one version does not lead on to another. PUT /databases/ID/backup-policy with point_in_time: false, upgrade, then switch it on again: what was kept before is given up.",
      "point_in_time",
    );
}

async function note(platform: Platform, row: DatabaseRow, upgrade: Upgrade, set = ""): Promise<boolean> {
  const { rowCount } = await platform.pool.query(
    `update databases set upgrade = $3, updated_at = now(), next_look_at = now()${set} where id = $1 and generation = $2`,
    [row.id, row.generation, JSON.stringify(upgrade)],
  );
  announce(platform, row.id);
  return rowCount === 1;
}

async function want(platform: Platform, row: DatabaseRow, upgrade: Upgrade): Promise<void> {
  if (!(await note(platform, row, upgrade, ", generation = generation + 1")))
    throw conflict("The database was changed meanwhile. Look at it, then ask again.", "changed");
  platform.signals.announce("work:databases");
}

/** @throws PlatformError CONFLICT, DATABASE_NOT_READY, ENGINE_VERSION_UNAVAILABLE */
export async function requestUpgrade(
  platform: Platform,
  row: DatabaseRow,
  { engine_version: to, keep_days }: { engine_version: string; keep_days: number },
): Promise<void> {
  const isOffered = versionOf(row.engine, to) === to;
  if (row.engine !== "postgresql" || !isOffered || Number(to) <= Number(row.engine_version))
    throw new PlatformError(
      "ENGINE_VERSION_UNAVAILABLE",
      row.engine === "postgresql"
        ? `PostgreSQL ${to} is not newer than ${row.engine_version}, which the database has. Name a newer one.`
        : `${row.engine} has one major version here.`,
      { errors: { engine_version: ["is no newer version"] } },
    );
  await assertQuiet(platform, row);
  await want(platform, row, {
    ...{ state: "upgrading", from: row.engine_version, to, keep_days },
    ...{ started_at: new Date().toISOString(), finished_at: null },
    ...{ reason: null, last_error: null, way_back_until: null },
  });
}

/** @throws PlatformError CONFLICT without a server of the earlier version */
export async function requestWayBack(platform: Platform, row: DatabaseRow): Promise<void> {
  const { upgrade } = row;
  if (!isChanging(row) && !upgrade?.way_back_until)
    throw conflict("No server of an earlier version is kept. Restore a backup instead.", "no_way_back");
  await assertQuiet(platform, row);
  await want(platform, row, { ...upgrade!, state: "going_back", finished_at: null });
}

export async function forgetWayBack(platform: Platform, row: DatabaseRow): Promise<void> {
  if (isChanging(row)) throw conflict("The database is changing its version. Wait for its end.", "upgrading");
  if (!row.upgrade?.way_back_until) return;
  await platform.host.forgetBefore(row.host_key);
  await note(platform, row, { ...row.upgrade, way_back_until: null });
}

/** The server that waited is removed when its days are over. */
export async function endWayBack(platform: Platform, row: DatabaseRow): Promise<void> {
  const until = row.upgrade?.way_back_until;
  if (until && new Date(until).getTime() <= Date.now()) await forgetWayBack(platform, row);
}

/**
 * Safe to run again: a host that has done it says so. What no repetition cures ends it, and the database goes on
 * as it was.
 */
export async function changeVersion(
  platform: Platform,
  row: DatabaseRow,
  signal: AbortSignal,
): Promise<void> {
  const { upgrade } = row;
  if (!upgrade || !isChanging(row)) return;
  const isBack = upgrade.state === "going_back";
  if (row.state !== "restarting") {
    await platform.pool.query(
      "update databases set state = 'restarting', reason = 'upgrading', proof = null, updated_at = now() where id = $1 and generation = $2",
      [row.id, row.generation],
    );
    announce(platform, row.id);
  }
  const [from, to] = isBack ? [upgrade.to, upgrade.from] : [upgrade.from, upgrade.to];
  const finished_at = () => new Date().toISOString();
  try {
    if (!isBack) await platform.host.upgradeDatabase(row.host_key, to, signal);
    else if (major((await platform.host.database(row.host_key, signal))?.version) !== to)
      await platform.host.goBack(row.host_key, signal);
  } catch (error) {
    if (
      !(error instanceof HostError) ||
      !["INVALID", "ENGINE_UNAVAILABLE", "UNSUPPORTED"].includes(error.code)
    )
      throw error;
    const reason = String(error.details["reason"] ?? error.code.toLowerCase());
    const state = isBack ? ("done" as const) : ("failed" as const);
    await note(platform, row, {
      ...upgrade,
      state,
      reason,
      last_error: error.message,
      finished_at: finished_at(),
    });
    await record(platform, databaseEvent(row, "database.upgrade_failed", { from, to, reason }));
    return;
  }
  const until = new Date(Date.now() + upgrade.keep_days * dayMs).toISOString();
  const done: Upgrade = {
    ...upgrade,
    ...{ state: isBack ? "went_back" : "done", finished_at: finished_at(), reason: null, last_error: null },
    way_back_until: isBack ? null : until,
  };
  const { rowCount } = await platform.pool.query(
    "update databases set upgrade = $3, engine_version = $4, updated_at = now() where id = $1 and generation = $2",
    [row.id, row.generation, JSON.stringify(done), to],
  );
  if (rowCount === 1)
    await record(
      platform,
      databaseEvent(row, isBack ? "database.went_back" : "database.upgraded", { from, to }),
    );
}

const major = (version: string | undefined) => version?.split(".")[0];
