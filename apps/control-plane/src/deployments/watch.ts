import type { RunSettings } from "@platform/contract";
import type { BoxFailure } from "@platform/host-api";
import type { ServiceRecord } from "@platform/guest-protocol";
import { record } from "../events/index.ts";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";
import { appService, type ReleaseRow } from "../releases/index.ts";
import { describeExit, explainExits, isCrashLoop, oomEvidence, oomOfFailure, type Exit } from "./exits.ts";
import { stopInstance } from "./stop.ts";
import { eventOf, updateInstance, type DeploymentRow, type InstanceRow } from "./store.ts";

const keptExits = 20;

export type Seen =
  | { readonly type: "healthy"; readonly instance: InstanceRow }
  /** It runs and does not answer as it should; a new box would run the same code. */
  | { readonly type: "unhealthy"; readonly instance: InstanceRow; readonly reason: string }
  /** Its box is gone, and so is its row's life. */
  | { readonly type: "gone"; readonly reason: string; readonly evidence: Record<string, unknown> };

/**
 * Looks at an instance that was healthy before, and notes what it finds.
 *
 * @param patienceMs for an app between two runs: the guest starts it again
 */
export async function lookAt(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
  instance: InstanceRow,
  options: { readonly settings: RunSettings; readonly patienceMs: number },
  signal: AbortSignal,
): Promise<Seen> {
  const box = await platform.host.box(instance.box_key, signal);
  if (box?.state !== "running")
    return bury(platform, row, instance, box?.failure ?? null, options.settings, signal);
  const guest = guestOf(platform.host, instance.box_key);
  const probe = await guest
    .probe(release.port!, { path: release.health_check_path ?? "/", timeoutMs: options.patienceMs }, signal)
    .catch(() => null);
  const service = await guest.services.get(appService, signal).catch(() => null);
  const now = service ? await noteExits(platform, row, instance, service, signal) : instance;
  if (!probe || !service) return bury(platform, row, now, null, options.settings, signal);
  const isLoop = isCrashLoop(now.exits, Date.now(), runningSince(service));
  if (probe.ok && !isLoop) {
    const set = { last_health_check_at: new Date(), unhealthy_since: null, verdict: null, failure: null };
    await updateInstance(platform, instance.id, { ...set, state: "healthy", restarts: service.restarts });
    return { type: "healthy", instance: { ...now, ...set, state: "healthy", restarts: service.restarts } };
  }
  const last = now.exits.at(-1);
  const reason = isLoop ? "crash_loop" : (probe.reason ?? "unhealthy");
  const failure = {
    reason,
    http_status: probe.httpStatus,
    ...(isLoop && last ? { detail: `It ends again and again: ${describeExit(last)}.`, last_exit: last } : {}),
  };
  const set = {
    state: isLoop ? ("error" as const) : ("unhealthy" as const),
    unhealthy_since: now.unhealthy_since ?? new Date(),
    verdict: isLoop ? "crash_loop" : null,
    failure,
  };
  await updateInstance(platform, instance.id, { ...set, restarts: service.restarts });
  if (isLoop && instance.verdict !== "crash_loop")
    await record(
      platform,
      eventOf(row, "deployment.unhealthy", {
        instance_id: instance.id,
        release_id: release.id,
        ...failure,
        exits: now.exits.slice(-5),
      }),
    );
  return { type: "unhealthy", instance: { ...now, ...set }, reason };
}

const runningSince = (service: ServiceRecord): number | null =>
  service.status === "running" && service.startedAt ? Date.parse(service.startedAt) : null;

/** Puts new ends of the app down to what the kernel counted, and tells of each kill for memory once. */
async function noteExits(
  platform: Platform,
  row: DeploymentRow,
  instance: InstanceRow,
  service: ServiceRecord,
  signal: AbortSignal,
): Promise<InstanceRow> {
  const since = instance.last_exit_at?.getTime() ?? 0;
  const fresh = (service.exits ?? []).filter((exit) => Date.parse(exit.at) > since);
  const counter = await platform.host.oom(instance.box_key, signal).catch(() => null);
  const total = counter?.oomKills ?? Number(instance.oom_kills);
  const risen = Math.max(0, total - Number(instance.oom_kills));
  if (fresh.length === 0 && risen === 0) return instance;
  const box = risen > 0 ? await platform.host.box(instance.box_key, signal).catch(() => null) : null;
  const evidenceOf = (kills: number) =>
    oomEvidence(counter ?? { memoryLimitBytes: null, memoryPeakBytes: null }, box?.notices ?? [], kills);
  const { exits, left } = explainExits(fresh, Number(instance.oom_pending) + risen, evidenceOf);
  const all: Exit[] = [...instance.exits, ...exits].slice(-keptExits);
  const set = {
    exits: JSON.stringify(all),
    last_exit_at: fresh.at(-1)?.at ?? instance.last_exit_at,
    oom_kills: total,
    oom_pending: left,
  };
  await updateInstance(platform, instance.id, set);
  if (risen > 0)
    await record(
      platform,
      eventOf(row, "deployment.oom", {
        instance_id: instance.id,
        release_id: instance.release_id,
        ...evidenceOf(risen),
      }),
    );
  return {
    ...instance,
    exits: all,
    last_exit_at: fresh.at(-1) ? new Date(fresh.at(-1)!.at) : instance.last_exit_at,
    oom_kills: String(total),
    oom_pending: String(left),
  };
}

async function bury(
  platform: Platform,
  row: DeploymentRow,
  instance: InstanceRow,
  failure: BoxFailure | null,
  settings: RunSettings,
  signal: AbortSignal,
): Promise<Seen> {
  const why = failure ?? {
    reason: "guest_lost" as const,
    detail: "the box is gone or does not answer",
    evidence: {},
  };
  const oom = oomOfFailure(why);
  const evidence = { reason: why.reason, detail: why.detail, ...(oom ?? {}) };
  await stopInstance(platform, instance, settings, signal, { failure: JSON.stringify(evidence) });
  await record(
    platform,
    eventOf(row, oom ? "deployment.oom" : "deployment.unhealthy", {
      ...{ instance_id: instance.id, release_id: instance.release_id },
      ...evidence,
    }),
  );
  return { type: "gone", reason: why.reason, evidence };
}
