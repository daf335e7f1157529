import type { RunSettings } from "@platform/contract";
import { queryOne, transaction } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import type { ReleaseRow } from "../releases/index.ts";
import { prepare, warmTarget, type Prepared } from "./fleet.ts";
import type { Failure } from "./instances.ts";
import type { PromotionRow } from "./promotions.ts";
import { eventOf, setDeployment, type DeploymentRow, type Promotion } from "./store.ts";
import { inForce, leadTo } from "./traffic.ts";

/** What a step of a promotion works with. */
export interface Move {
  readonly platform: Platform;
  readonly row: DeploymentRow;
  readonly settings: RunSettings;
  readonly promotion: PromotionRow;
  readonly release: ReleaseRow;
  readonly active: ReleaseRow | null;
  readonly signal: AbortSignal;
}

export type Ready = Extract<Prepared, { type: "ready" }>;

/** Milliseconds until every new instance has run long enough; `died` when one of them ended meanwhile. */
export function unsettledMs({ promotion, settings }: Move, prepared: Ready): number | "died" {
  const settleMs = 1000 * (promotion.options.settle_sec ?? settings.settle_sec);
  if (settleMs === 0 || prepared.instances.length === 0) return 0;
  const began = promotion.started_at!.getTime();
  const ended = prepared.instances.some((one) => (one.last_exit_at?.getTime() ?? 0) > Math.max(began, 0));
  if (ended) return "died";
  const youngest = Math.max(...prepared.instances.map((one) => one.healthy_since?.getTime() ?? Date.now()));
  return Math.max(0, youngest + settleMs - Date.now());
}

export function settleFailure(prepared: Ready): Failure {
  const died = prepared.instances.find((one) => one.exits.length > 0);
  const last = died?.exits.at(-1);
  return {
    code: "PROMOTE_FAILED",
    message:
      "The release became healthy and ended soon after, before it got traffic. Traffic stays where it was.",
    details: {
      reason: last?.reason === "oom" ? "oom" : "process_exited",
      exits: died?.exits.slice(-5) ?? [],
      ...(last?.oom ?? {}),
    },
  };
}

/** Traffic goes back to (or stays on) what served before; only then the verdict can be read. */
export async function fail(move: Move, failure: Failure): Promise<number> {
  const { platform, row, promotion, release, active } = move;
  if (!(await restore(move))) return 250;
  const mirror: Promotion = {
    id: promotion.id,
    kind: promotion.kind,
    release_id: promotion.release_id,
    state: "failed",
    started_at: row.promotion?.started_at ?? new Date().toISOString(),
    finished_at: new Date().toISOString(),
    failure,
  };
  await transaction(platform.pool, async (db) => {
    const isMine = await setDeployment(
      platform,
      row,
      {
        state: active ? row.state : "failed",
        desired_release_id: row.active_release_id,
        error_message: failure.message,
        last_failure: failure,
        promotion: mirror,
      },
      db,
    );
    if (!isMine) return;
    await db.query(
      "update promotions set state = 'failed', finished_at = now(), failure = $2 where id = $1 and state = 'running'",
      [promotion.id, failure],
    );
    if (failure.code === "CANARY_FAILED" && release)
      await db.query("update versions set verdict = $2 where id = $1", [
        release.deployment_version_id,
        { verdict: "canary_failed", at: mirror.finished_at, ...failure.details },
      ]);
    await recordIn(
      db,
      eventOf(row, "deployment.failed", {
        release_id: promotion.release_id,
        promotion_id: promotion.id,
        code: failure.code,
        message: failure.message,
      }),
    );
  });
  platform.signals.announce("events", `events:${row.id}`, `deployment:${row.id}`);
  return 0;
}

/** Puts the route back to the active release. @returns false while that cannot be done yet */
export async function restore({
  platform,
  row,
  settings,
  active,
  signal,
}: Omit<Move, "promotion" | "release">): Promise<boolean> {
  if (!active) return true;
  const route = await queryOne<{ release_id: string | null; canary: boolean }>(
    platform.pool,
    "select release_id, (target ? 'canary') as canary from routes where deployment_id = $1 and kind = 'deployment' and target is not null",
    [row.id],
  );
  // It never moved: what serves is left in peace.
  if (route && route.release_id === active.id && !route.canary) return true;
  const target = await warmTarget(platform, row, active);
  if (!target) {
    const prepared = await prepare(
      platform,
      row,
      active,
      settings,
      { count: settings.instances, all: false, patienceMs: 1_000 },
      signal,
    );
    if (prepared.type !== "ready") return false;
    await inForce(
      platform,
      await leadTo(platform, row, settings, { releaseId: active.id, target: prepared.target }),
      signal,
    );
    return true;
  }
  await inForce(platform, await leadTo(platform, row, settings, { releaseId: active.id, target }), signal);
  return true;
}
