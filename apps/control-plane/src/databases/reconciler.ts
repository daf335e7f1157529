import { faultPoint } from "@platform/daemon";
import { HostError, type HostedDatabase, type LoginProof } from "@platform/host-api";
import { record } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { fillFromSource, lastBackupGoesOn, lastBackupsExpire, scheduleBackup } from "./copies.ts";
import { continueRotation } from "./rotation.ts";
import { specOf } from "./spec.ts";
import { changeVersion, endWayBack, isChanging } from "./upgrade.ts";
import { announce, databaseEvent, loadDatabase, type DatabaseRow, type DatabaseState } from "./store.ts";

/** A canary logs in this often unless the settings say otherwise, milliseconds; a failure is looked at again sooner. */
const standardCanaryMs = 30_000;
const mostUnwellMs = 3_000;
/** While a database that is to be deleted is backed up. */
const finalMs = 1_000;
/** While linked apps get new credentials. */
const rotationMs = 1_000;

async function store(
  platform: Platform,
  row: DatabaseRow,
  state: DatabaseState,
  set: Record<string, unknown> = {},
): Promise<boolean> {
  const names = Object.keys(set);
  const result = await platform.pool.query(
    `update databases set state = $3, updated_at = now()${names.map((name, index) => `, ${name} = $${index + 4}`).join("")} where id = $1 and generation = $2`,
    [row.id, row.generation, state, ...Object.values(set)],
  );
  announce(platform, row.id);
  return result.rowCount === 1;
}

const canaryOf = ({ settings }: Platform) => settings.canaryEveryMs ?? standardCanaryMs;

export function createDatabaseStep(platform: Platform) {
  const canaryMs = canaryOf(platform);
  return async (id: string, signal: AbortSignal): Promise<number> => {
    const row = await loadDatabase(platform.pool, id);
    if (!row || row.state === "deleted") return canaryMs;
    faultPoint("control-plane.database.claimed");
    if (row.desired === "deleted") return remove(platform, row, signal);
    if (row.state === "failed") return canaryMs;
    if (row.desired === "stopped") return stop(platform, row, signal);
    if (!isChanging(row)) return run(platform, row, signal);
    await changeVersion(platform, row, signal);
    return run(platform, (await loadDatabase(platform.pool, id)) ?? row, signal);
  };
}

async function remove(platform: Platform, row: DatabaseRow, signal: AbortSignal): Promise<number> {
  if (await lastBackupGoesOn(platform, row)) return finalMs;
  await platform.host.deleteDatabase(row.host_key, signal);
  faultPoint("control-plane.database.before-deleted");
  await lastBackupsExpire(platform, row);
  await platform.pool.query("delete from database_links where database_id = $1", [row.id]);
  if (await store(platform, row, "deleted", { proof: null, host: null, port: null }))
    await record(platform, databaseEvent(row, "database.deleted"));
  return canaryOf(platform);
}

async function stop(platform: Platform, row: DatabaseRow, signal: AbortSignal): Promise<number> {
  const found = await platform.host.database(row.host_key, signal);
  if (found && found.state !== "stopped") await platform.host.databaseAction(row.host_key, "stop", signal);
  if (row.state !== "stopped") await store(platform, row, "stopped", { proof: null });
  return canaryOf(platform);
}

async function bringUp(platform: Platform, row: DatabaseRow, signal: AbortSignal): Promise<HostedDatabase> {
  const found = await platform.host.database(row.host_key, signal);
  if (found?.state === "stopped") return platform.host.databaseAction(row.host_key, "start", signal);
  if (found && row.action === "restart") return platform.host.databaseAction(row.host_key, "restart", signal);
  if (found?.state === "running") return found;
  if (row.source) return fillFromSource(platform, row, signal);
  return platform.host.putDatabase(row.host_key, specOf(platform, row), signal);
}

async function run(platform: Platform, row: DatabaseRow, signal: AbortSignal): Promise<number> {
  const canaryMs = canaryOf(platform);
  let hosted: HostedDatabase;
  try {
    hosted = await bringUp(platform, row, signal);
  } catch (error) {
    if (!(error instanceof HostError) || error.code === "UNREACHABLE") throw error;
    // A kind of refusal that no repetition cures ends the creation; anything else is tried again.
    const final = error.code === "ENGINE_UNAVAILABLE" || error.code === "INVALID";
    await store(platform, row, final ? "failed" : row.state === "creating" ? "creating" : "error", {
      last_error: error.message,
      reason: error.code.toLowerCase(),
    });
    if (!final) throw error;
    await record(platform, databaseEvent(row, "database.failed", { reason: error.code }));
    return canaryMs;
  }
  faultPoint("control-plane.database.before-probe");
  // Asked for anew each time: the state is what this login says, not what the last one said.
  const proof: LoginProof = await platform.host.probe(row.host_key, signal);
  // What that showed of the pooler, too.
  const pooling = (await platform.host.database(row.host_key, signal))?.pooling ?? null;
  const facts = {
    proof,
    host: hosted.hostname,
    port: hosted.port,
    exact_version: hosted.version,
    product: hosted.product,
    isolation: hosted.isolation,
    pooling: JSON.stringify(pooling),
    action: null,
  };
  if (!proof.ok) {
    const stored = await store(platform, row, row.state === "creating" ? "creating" : "error", {
      ...facts,
      reason: proof.reason,
      last_error: proof.detail ?? proof.reason,
    });
    if (stored && row.state === "running")
      await record(platform, databaseEvent(row, "database.unavailable", { reason: proof.reason }));
    return Math.min(mostUnwellMs, canaryMs);
  }
  const stored = await store(platform, row, "running", { ...facts, reason: null, last_error: null });
  if (stored && row.state !== "running") {
    const type = row.state === "error" ? "database.recovered" : "database.ready";
    await record(platform, databaseEvent(row, type, { latency_ms: Math.round(proof.latencyMs) }));
    platform.signals.announce("work:sandboxes", "work:deployments", "work:builds");
  }
  await endWayBack(platform, row);
  await scheduleBackup(platform, row);
  const isRotating = await continueRotation(platform, row, hosted.rotating);
  return isRotating ? rotationMs : canaryMs;
}
