import type { RunSettings } from "@platform/contract";
import { faultPoint } from "@platform/daemon";
import { transaction } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { loadRelease, type ReleaseRow } from "../releases/index.ts";
import { canaryStep } from "./canary.ts";
import { failureOf, prepare, retireInstances, warmTarget } from "./fleet.ts";
import { fail, restore, settleFailure, unsettledMs, type Move } from "./move.ts";
import { runMigrations } from "./migrate.ts";
import { provenanceFailure, type Failure } from "./instances.ts";
import { loadPromotion, type PromotionRow } from "./promotions.ts";
import { canaryOf } from "./settings.ts";
import { eventOf, setDeployment, type DeploymentRow, type Promotion } from "./store.ts";
import { hostnameOf, inForce, isOpen, leadTo } from "./traffic.ts";
import { answersThroughEdge } from "./verify.ts";

/** One step of the promotion that runs. @returns milliseconds until the next one */
export async function takeStep(
  platform: Platform,
  row: DeploymentRow,
  settings: RunSettings,
  promotion: PromotionRow,
  signal: AbortSignal,
): Promise<number> {
  const release = await loadRelease(platform.pool, promotion.release_id);
  const active = row.active_release_id ? await loadRelease(platform.pool, row.active_release_id) : null;
  const move: Move = { platform, row, settings, promotion, release: release!, active, signal };
  if (release?.artifact_sha256 !== promotion.artifact_sha256 || release?.state !== "ready")
    return fail(move, {
      code: "RELEASE_NOT_READY",
      message: "The release is no longer the one that the promote was asked, or approved, for.",
      details: { state: release?.state ?? "gone" },
    });
  const refused = await provenanceFailure(platform, release);
  if (refused) return fail(move, refused);
  const unmigrated = await runMigrations(move);
  if (unmigrated) return fail(move, unmigrated);
  const plan = active && active.id !== release.id ? canaryOf(promotion.options) : null;
  const hasCanaryTime = plan !== null && (promotion.canary?.step ?? 0) < plan.steps.length;
  const since = promotion.canary ? Date.parse(promotion.canary.since) : promotion.started_at!.getTime();
  const isLate = Date.now() - since > settings.promote_timeout_sec * 1000;
  if (isLate && !(hasCanaryTime && promotion.canary)) return fail(move, tooLate(settings));
  if (plan && hasCanaryTime) return canaryStep(move, plan);
  return wholeStep(move);
}

const tooLate = (settings: RunSettings): Failure => ({
  code: "PROMOTE_TIMEOUT",
  message: `The promote did not end within ${settings.promote_timeout_sec} s. Traffic stays where it was.`,
  details: { promote_timeout_sec: settings.promote_timeout_sec },
});

/** All traffic: instances, settle, route, proof, active. */
async function wholeStep(move: Move): Promise<number> {
  const { platform, row, settings, promotion, release, active, signal } = move;
  const prepared = await prepare(
    platform,
    row,
    release,
    settings,
    { count: settings.instances, all: true, patienceMs: 2_000 },
    signal,
  );
  if (prepared.type === "waiting" && prepared.troubles.length > 0)
    return fail(move, failureOf(prepared.troubles[0]!));
  if (prepared.type === "waiting") return prepared.againInMs;
  if (prepared.type === "failed") return fail(move, prepared.failure);
  if (prepared.troubles.length > 0) return fail(move, failureOf(prepared.troubles[0]!));
  const unsettled = unsettledMs(move, prepared);
  if (unsettled === "died") return fail(move, settleFailure(prepared));
  if (unsettled > 0) return Math.min(unsettled, 500);
  faultPoint("control-plane.deployment.instance-healthy");
  // A cancel that came while the instances started is heard before any traffic moves.
  if ((await loadPromotion(platform.pool, promotion.id))?.state !== "running") return 0;
  const spare = active && active.id !== release.id ? await warmTarget(platform, row, active) : null;
  const version = await leadTo(platform, row, settings, {
    releaseId: release.id,
    target: prepared.target,
    ...(active && spare && settings.trial_sec > 0
      ? { fallback: { releaseId: active.id, target: spare } }
      : {}),
  });
  faultPoint("control-plane.deployment.after-route");
  const silent = await inForce(platform, version, signal);
  const proved = isOpen(row) ? "edge" : "inside";
  if (proved === "edge") {
    const path = release.kind === "static" ? "/" : (release.health_check_path ?? "/");
    const seen = await answersThroughEdge(platform, await hostnameOf(platform, row), path, signal);
    if (!seen.ok)
      return fail(move, {
        code: "PROMOTE_FAILED",
        message: "The release answers inside but not through its public name. Traffic stays where it was.",
        details: { http_status: seen.status },
      });
  }
  faultPoint("control-plane.deployment.before-active");
  await activate(move, { silent, wasWarm: prepared.wasWarm, proved });
  await retireInstances(
    platform,
    { ...row, active_release_id: release.id, previous_release_id: active?.id ?? null },
    settings,
    prepared.instances,
    signal,
  );
  return 0;
}

async function activate(
  { platform, row, settings, promotion, release }: Move,
  how: { silent: string[]; wasWarm: boolean; proved: string },
): Promise<void> {
  const startedAt = row.promotion?.started_at ?? promotion.started_at!.toISOString();
  const mirror: Promotion = {
    id: promotion.id,
    kind: promotion.kind,
    release_id: release.id,
    state: "succeeded",
    started_at: startedAt,
    finished_at: new Date().toISOString(),
    took_ms: Date.now() - Date.parse(startedAt),
    warm: how.wasWarm,
    ...(how.silent.length > 0 ? { silent_edges: how.silent } : {}),
  };
  const isMove = row.active_release_id !== release.id;
  await transaction(platform.pool, async (db) => {
    const isMine = await setDeployment(
      platform,
      row,
      {
        state: "running",
        active_release_id: release.id,
        active_version_id: release.deployment_version_id,
        running_artifact_sha256: release.artifact_sha256,
        error_message: null,
        promotion: mirror,
        promoted_at: new Date(),
        last_used_at: new Date(),
        ...(isMove
          ? {
              previous_release_id: row.active_release_id,
              trial_until:
                row.active_release_id && settings.trial_sec > 0 && promotion.kind === "promote"
                  ? new Date(Date.now() + settings.trial_sec * 1000)
                  : null,
            }
          : {}),
      },
      db,
    );
    if (!isMine) return;
    await db.query(
      "update promotions set state = 'succeeded', finished_at = now(), proved = $2 where id = $1 and state = 'running'",
      [promotion.id, how.proved],
    );
    await db.query("update versions set promoted_at = now(), verdict = null where id = $1", [
      release.deployment_version_id,
    ]);
    await recordIn(
      db,
      eventOf(row, "deployment.succeeded", {
        release_id: release.id,
        version_id: release.deployment_version_id,
        promotion_id: promotion.id,
        kind: promotion.kind,
        took_ms: mirror.took_ms,
      }),
    );
  });
  platform.signals.announce("events", `events:${row.id}`, `deployment:${row.id}`);
}

/** A promotion that was cancelled, or whose row went: traffic goes back, and the deployment says so. */
export async function settleCancelled(
  platform: Platform,
  row: DeploymentRow,
  settings: RunSettings,
  active: ReleaseRow | null,
  signal: AbortSignal,
): Promise<number> {
  if (!(await restore({ platform, row, settings, active, signal }))) return 250;
  const cancelled = row.promotion?.id ? await loadPromotion(platform.pool, row.promotion.id) : null;
  const failure = cancelled?.failure ?? {
    code: "PROMOTE_CANCELLED",
    message: "The promote was not carried out. Ask again.",
    details: {},
  };
  await setDeployment(platform, row, {
    desired_release_id: row.active_release_id,
    state: active ? row.state : "failed",
    error_message: active ? row.error_message : failure.message,
    promotion: {
      ...row.promotion!,
      state: "failed",
      finished_at: new Date().toISOString(),
      failure,
    } satisfies Promotion,
  });
  return 0;
}
