import type { CanaryPlan } from "@platform/contract";
import { faultPoint } from "@platform/daemon";
import { queryOne } from "@platform/postgres";
import { failureOf, prepare } from "./fleet.ts";
import type { CanaryState } from "./promotions.ts";
import { fail, settleFailure, unsettledMs, type Move } from "./move.ts";
import { inForce, leadTo } from "./traffic.ts";

const lookMs = 500;

interface Tally {
  readonly requests: number;
  readonly errors: number;
}

/** One look at a release that gets a part of the requests, and the step to a larger part when it is due. */
export async function canaryStep(move: Move, plan: CanaryPlan): Promise<number> {
  const { platform, row, settings, promotion, release, active, signal } = move;
  const state = promotion.canary;
  const index = state?.step ?? 0;
  const percent = plan.steps[index]!;
  const main = await prepare(
    platform,
    row,
    active!,
    settings,
    { count: settings.instances, all: false, patienceMs: 1_000 },
    signal,
  );
  if (main.type === "waiting") return main.againInMs;
  const count = Math.max(1, Math.ceil((settings.instances * percent) / 100));
  const young = await prepare(
    platform,
    row,
    release,
    settings,
    { count, all: true, patienceMs: 1_000 },
    signal,
  );
  if (young.troubles.length > 0)
    return fail(move, canaryFailure(failureOf(young.troubles[0]!).details, "does not stay healthy"));
  if (young.type === "waiting") return young.againInMs;
  if (young.type === "failed")
    return fail(move, state ? canaryFailure(young.failure.details, "ended") : young.failure);
  if (main.type === "failed") return 1_000;
  if (!state) {
    const unsettled = unsettledMs(move, young);
    if (unsettled === "died") return fail(move, settleFailure(young));
    if (unsettled > 0) return Math.min(unsettled, lookMs);
  }
  const version = await leadTo(platform, row, settings, {
    releaseId: active!.id,
    target: main.target,
    canary: { releaseId: release.id, target: young.target, percent, sticky: plan.sticky },
  });
  await inForce(platform, version, signal);
  faultPoint("control-plane.canary.after-route");
  if (!state) {
    await note(move, { step: 0, percent, since: new Date().toISOString(), steps: [] });
    return lookMs;
  }
  const seen = await tally(move, state.since);
  if (seen.errors >= plan.min_errors && seen.errors / Math.max(1, seen.requests) > plan.max_error_rate)
    return fail(
      move,
      canaryFailure(
        { percent, ...seen, error_rate: seen.errors / seen.requests, max_error_rate: plan.max_error_rate },
        `failed ${seen.errors} of ${seen.requests} requests`,
      ),
    );
  const elapsedMs = Date.now() - Date.parse(state.since);
  if (elapsedMs < plan.step_sec * 1000) return Math.min(lookMs, plan.step_sec * 1000 - elapsedMs);
  const steps = [...state.steps, { percent, ...seen }];
  await note(move, {
    step: index + 1,
    percent: plan.steps[index + 1] ?? 100,
    since: new Date().toISOString(),
    steps,
  });
  faultPoint("control-plane.canary.after-step");
  return 0;
}

const canaryFailure = (details: Record<string, unknown>, what: string) => ({
  code: "CANARY_FAILED",
  message: `The canary ${what}. All traffic is back on the release before.`,
  details: { reason: "canary", ...details },
});

async function note({ platform, promotion }: Move, state: CanaryState): Promise<void> {
  await platform.pool.query("update promotions set canary = $2 where id = $1 and state = 'running'", [
    promotion.id,
    state,
  ]);
}

/** What edges reported since: answers of the canary, and requests that another release had to answer for it. */
async function tally({ platform, release, row }: Move, since: string): Promise<Tally> {
  const seen = await queryOne<{ requests: string; errors: string }>(
    platform.pool,
    `select count(*) as requests, count(*) filter (where failed_release_id = $2 or status >= 500) as errors
     from request_logs where deployment_id = $1 and at >= $3 and (release_id = $2 or failed_release_id = $2)`,
    [row.id, release.id, since],
  );
  return { requests: Number(seen?.requests ?? 0), errors: Number(seen?.errors ?? 0) };
}
