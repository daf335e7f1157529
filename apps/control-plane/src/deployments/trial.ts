import type { RunSettings } from "@platform/contract";
import { faultPoint, newId } from "@platform/daemon";
import { transaction } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import type { ReleaseRow } from "../releases/index.ts";
import { prepare, type Prepared } from "./fleet.ts";
import type { Failure } from "./instances.ts";
import { eventOf, setDeployment, type DeploymentRow, type Promotion } from "./store.ts";
import { inForce, leadTo } from "./traffic.ts";

/** Not answering for this long is death on trial, milliseconds. */
const silentMs = 15_000;

export const isOnTrial = (row: DeploymentRow): boolean =>
  row.trial_until !== null && row.trial_until.getTime() > Date.now() && row.previous_release_id !== null;

/** Crashing again and again, or no instance that answered for a while, or none that can be made. */
export function diedOnTrial(prepared: Prepared): boolean {
  if (prepared.troubles.some(({ reason }) => reason === "crash_loop")) return true;
  if (prepared.type === "failed") return prepared.troubles.length === 0;
  if (prepared.type === "waiting") return false;
  return (
    prepared.instances.length > 0 &&
    prepared.instances.every(
      ({ unhealthy_since: since }) =>
        since !== null && since !== undefined && Date.now() - since.getTime() > silentMs,
    )
  );
}

/**
 * Leads traffic back to the release before, then reports the death: once the verdict can be read, no request
 * reaches the dead release any more.
 */
export async function returnToPrevious(
  platform: Platform,
  row: DeploymentRow,
  settings: RunSettings,
  { dead, previous, failure }: { dead: ReleaseRow; previous: ReleaseRow; failure: Failure },
  signal: AbortSignal,
): Promise<number> {
  const prepared = await prepare(
    platform,
    row,
    previous,
    settings,
    { count: settings.instances, all: false, patienceMs: 1_000 },
    signal,
  );
  if (prepared.type === "waiting") return prepared.againInMs;
  if (prepared.type === "failed") {
    await setDeployment(platform, row, {
      error_message: `${failure.message} The release before does not come up either: ${prepared.failure.message}`,
      last_failure: failure,
    });
    return 2_000;
  }
  const version = await leadTo(platform, row, settings, { releaseId: previous.id, target: prepared.target });
  const silent = await inForce(platform, version, signal);
  faultPoint("control-plane.trial.after-route");
  const at = new Date();
  const died: Failure = {
    code: "RELEASE_DIED",
    message: `Release ${dead.id} died on trial (${String(failure.details["reason"] ?? "unhealthy")}); release ${previous.id} serves again.`,
    details: { ...failure.details, release_id: dead.id, returned_to_release_id: previous.id },
  };
  const id = newId();
  const promotion: Promotion = {
    id,
    kind: "return",
    release_id: dead.id,
    state: "failed",
    started_at: row.promotion?.started_at ?? at.toISOString(),
    finished_at: at.toISOString(),
    failure: died,
    ...(silent.length > 0 ? { silent_edges: silent } : {}),
  };
  await transaction(platform.pool, async (db) => {
    const isMine = await setDeployment(
      platform,
      row,
      {
        active_release_id: previous.id,
        active_version_id: previous.deployment_version_id,
        desired_release_id: previous.id,
        running_artifact_sha256: previous.artifact_sha256,
        state: "running",
        error_message: died.message,
        last_failure: died,
        trial_until: null,
        previous_release_id: null,
        promotion,
        promoted_at: at,
      },
      db,
    );
    if (!isMine) return;
    await db.query(
      `insert into promotions (id, deployment_id, release_id, from_release_id, kind, state, artifact_sha256, failure, started_at, finished_at)
       values ($1, $2, $3, $4, 'return', 'succeeded', $5, $6, now(), now())`,
      [id, row.id, previous.id, dead.id, previous.artifact_sha256, died],
    );
    const verdict = { verdict: "died_on_trial", at: at.toISOString(), ...died.details };
    await db.query("update versions set verdict = $2 where id = $1", [dead.deployment_version_id, verdict]);
    await db.query("update versions set promoted_at = now() where id = $1", [previous.deployment_version_id]);
    await recordIn(
      db,
      eventOf(row, "deployment.returned", {
        release_id: dead.id,
        returned_to_release_id: previous.id,
        code: died.code,
        message: died.message,
        evidence: failure.details,
      }),
    );
  });
  platform.signals.announce("events", `events:${row.id}`, `deployment:${row.id}`);
  return 0;
}
