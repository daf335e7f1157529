import type { RunSettings } from "@platform/contract";
import { faultPoint } from "@platform/daemon";
import { transaction } from "@platform/postgres";
import { acknowledged, removeRoutes } from "../edges/index.ts";
import { record } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { loadRelease, type ReleaseRow } from "../releases/index.ts";
import { failureOf, prepare, removeInstances, retireInstances, warmTarget, type Prepared } from "./fleet.ts";
import type { Failure } from "./instances.ts";
import { beginNext, cancelAll, nextDueMs, runningPromotion } from "./promotions.ts";
import { settleCancelled, takeStep } from "./rollout.ts";
import { sampleInstances } from "./sampler.ts";
import { settingsOf } from "./settings.ts";
import { fallAsleep, mayFallAsleep } from "./sleep.ts";
import { eventOf, loadDeployment, setDeployment, type DeploymentRow } from "./store.ts";
import { showProgress } from "./placeholder.ts";
import { inForce, leadTo, pointAt } from "./traffic.ts";
import { diedOnTrial, isOnTrial, returnToPrevious } from "./trial.ts";

const steadyMs = 5_000;
const restMs = 60_000;
const ackTimeoutMs = 10_000;
/** A release on trial is looked at this often: closely at first, milliseconds. */
const trialMs = { first: 400, later: 2_000, firstFor: 20_000 };

export function createDeploymentStep(platform: Platform) {
  return async (id: string, signal: AbortSignal): Promise<number> => {
    let row = await loadDeployment(platform.pool, id);
    if (!row || row.state === "deleted") return restMs;
    faultPoint("control-plane.deployment.claimed");
    const settings = settingsOf(row);
    if (row.desired === "deleted") return remove(platform, row, settings, signal);
    if (row.desired === "stopped") return stop(platform, row, settings, signal);
    if (await beginNext(platform, row)) {
      faultPoint("control-plane.promotion.begun");
      row = (await loadDeployment(platform.pool, id))!;
    }
    const promotion = await runningPromotion(platform.pool, id);
    const againMs = promotion
      ? await takeStep(platform, row, settings, promotion, signal)
      : await serve(platform, row, settings, signal);
    const dueMs = promotion ? null : await nextDueMs(platform, id);
    return dueMs === null ? againMs : Math.min(againMs, dueMs);
  };
}

/** Keeps what serves serving. */
async function serve(
  platform: Platform,
  row: DeploymentRow,
  settings: RunSettings,
  signal: AbortSignal,
): Promise<number> {
  const release = row.active_release_id ? await loadRelease(platform.pool, row.active_release_id) : null;
  if (row.promotion?.state === "running") return settleCancelled(platform, row, settings, release, signal);
  if (!release?.artifact_sha256) {
    await retireInstances(platform, row, settings, [], signal);
    await showProgress(platform, row);
    return steadyMs;
  }
  if (row.asleep_at) return sleep(platform, row, settings, signal);
  const onTrial = isOnTrial(row);
  const prepared = await prepare(
    platform,
    row,
    release,
    settings,
    { count: settings.instances, all: false, patienceMs: onTrial ? 1_000 : 5_000 },
    signal,
  );
  if (onTrial && diedOnTrial(prepared)) {
    const previous = row.previous_release_id
      ? await loadRelease(platform.pool, row.previous_release_id)
      : null;
    if (previous?.state === "ready")
      return returnToPrevious(
        platform,
        row,
        settings,
        { dead: release, previous, failure: deathOf(prepared) },
        signal,
      );
  }
  if (prepared.type === "waiting") return prepared.againInMs;
  if (prepared.type === "failed") return replaceLater(platform, row, prepared.failure);
  await lead(platform, row, settings, release, prepared, signal);
  if (row.state !== "running" || row.error_message !== null) await tellHealth(platform, row, prepared);
  await retireInstances(platform, row, settings, prepared.instances, signal);
  await sampleInstances(platform, row, prepared.instances, signal);
  if (await mayFallAsleep(platform, row, settings, prepared.instances, signal)) {
    await fallAsleep(platform, row);
    return 0;
  }
  if (prepared.instances.length < settings.instances && release.kind !== "static") return 500;
  return onTrial ? trialLookMs(row) : steadyMs;
}

const deathOf = (prepared: Prepared): Failure =>
  prepared.type === "failed"
    ? prepared.failure
    : failureOf(prepared.troubles[0] ?? { reason: "unhealthy", instance: null, evidence: {} });

const trialLookMs = (row: DeploymentRow): number =>
  Date.now() - (row.promoted_at?.getTime() ?? 0) < trialMs.firstFor ? trialMs.first : trialMs.later;

async function lead(
  platform: Platform,
  row: DeploymentRow,
  settings: RunSettings,
  release: ReleaseRow,
  prepared: Extract<Prepared, { type: "ready" }>,
  signal: AbortSignal,
): Promise<void> {
  const previous =
    isOnTrial(row) && row.previous_release_id
      ? await loadRelease(platform.pool, row.previous_release_id)
      : null;
  const spare = previous ? await warmTarget(platform, row, previous) : null;
  const version = await leadTo(platform, row, settings, {
    releaseId: release.id,
    target: prepared.target,
    ...(previous && spare ? { fallback: { releaseId: previous.id, target: spare } } : {}),
  });
  faultPoint("control-plane.deployment.after-route");
  // Before anything that gets no traffic any more is retired.
  await inForce(platform, version, signal);
}

/** What was reported as broken and is whole again, or is broken only in part. */
async function tellHealth(
  platform: Platform,
  row: DeploymentRow,
  prepared: Extract<Prepared, { type: "ready" }>,
): Promise<void> {
  const [trouble] = prepared.troubles;
  if (trouble && prepared.instances.some(({ id }) => id === trouble.instance?.id)) {
    const failure = failureOf(trouble);
    await setDeployment(platform, row, { error_message: failure.message, last_failure: failure });
    return;
  }
  if (row.state !== "running" || row.promotion?.state !== "failed")
    await setDeployment(platform, row, { state: "running", error_message: null });
}

/** Nothing of the active release comes up: keep trying, and say so. */
async function replaceLater(platform: Platform, row: DeploymentRow, failure: Failure): Promise<number> {
  await setDeployment(platform, row, { error_message: failure.message, last_failure: failure });
  return steadyMs;
}

async function sleep(
  platform: Platform,
  row: DeploymentRow,
  settings: RunSettings,
  signal: AbortSignal,
): Promise<number> {
  const version = await pointAt(platform, row, { type: "wake", accessSha256: null }, row.active_release_id);
  await inForce(platform, version, signal);
  await retireInstances(platform, row, { ...settings, keep_warm_releases: 0 }, [], signal);
  return steadyMs;
}

async function stop(
  platform: Platform,
  row: DeploymentRow,
  settings: RunSettings,
  signal: AbortSignal,
): Promise<number> {
  const version = await pointAt(platform, row, { type: "page", page: "stopped", detail: null }, null);
  if (row.state === "stopped") return restMs;
  await cancelAll(platform, row.id, "The deployment was stopped.");
  await acknowledged(platform, version, ackTimeoutMs, signal);
  await removeInstances(platform, row.id, settings, signal);
  const set = { state: "stopped", running_artifact_sha256: null, trial_until: null, asleep_at: null };
  if (await setDeployment(platform, row, set)) await record(platform, eventOf(row, "deployment.stopped"));
  return restMs;
}

async function remove(
  platform: Platform,
  row: DeploymentRow,
  settings: RunSettings,
  signal: AbortSignal,
): Promise<number> {
  const version = await transaction(platform.pool, (db) => removeRoutes(db, "deployment_id = $1", [row.id]));
  platform.signals.announce("routes");
  await cancelAll(platform, row.id, "The deployment was deleted.");
  await acknowledged(platform, version, ackTimeoutMs, signal);
  await removeInstances(platform, row.id, settings, signal);
  faultPoint("control-plane.deployment.before-deleted");
  await platform.pool.query(
    "delete from database_links where resource_type = 'deployment' and resource_id = $1",
    [row.id],
  );
  await platform.pool.query("delete from deployment_env where deployment_id = $1", [row.id]);
  const set = {
    state: "deleted",
    active_release_id: null,
    active_version_id: null,
    running_artifact_sha256: null,
  };
  if (await setDeployment(platform, row, set)) await record(platform, eventOf(row, "deployment.deleted"));
  return restMs;
}
