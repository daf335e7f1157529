import type { RunSettings } from "@platform/contract";
import { faultPoint } from "@platform/daemon";
import type { OtherRelease } from "@platform/edge-api";
import { query, queryOne } from "@platform/postgres";
import { derivedId } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import type { ReleaseRow } from "../releases/index.ts";
import { bringUp, provenanceFailure, type Failure } from "./instances.ts";
import { drainMs } from "./settings.ts";
import { stopInstance } from "./stop.ts";
import { instancesOf, updateInstance, type DeploymentRow, type InstanceRow } from "./store.ts";
import { lookAt } from "./watch.ts";

const wasUp: ReadonlySet<string> = new Set(["healthy", "unhealthy", "error"]);
/** Boxes that start at once for one deployment. */
const atOnce = 4;
const longestBackoffMs = 60_000;

/** What can be led to, or why not. */
export type Prepared =
  | {
      readonly type: "ready";
      readonly target: OtherRelease["target"];
      readonly instances: readonly InstanceRow[];
      /** Nothing had to be started. */
      readonly wasWarm: boolean;
      /** Instances that are wanted and do not serve, with why. */
      readonly troubles: readonly Trouble[];
    }
  | { readonly type: "waiting"; readonly againInMs: number; readonly troubles: readonly Trouble[] }
  | { readonly type: "failed"; readonly failure: Failure; readonly troubles: readonly Trouble[] };

export interface Trouble {
  readonly reason: string;
  readonly instance: InstanceRow | null;
  readonly evidence: Record<string, unknown>;
}

export interface Wanted {
  readonly count: number;
  /** All of them have to be healthy; else one is enough, and the others come later. */
  readonly all: boolean;
  readonly patienceMs: number;
}

/** Brings a release to where traffic can be led to it. One step; call it again while it waits. */
export async function prepare(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
  settings: RunSettings,
  wanted: Wanted,
  signal: AbortSignal,
): Promise<Prepared> {
  if (release.kind === "static") {
    const refused = await provenanceFailure(platform, release);
    if (refused) return { type: "failed", failure: refused, troubles: [] };
    const target = {
      type: "static" as const,
      digest: `sha256:${release.artifact_sha256}`,
      spaFallback: release.metadata["spa_fallback"] === true,
    };
    return { type: "ready", target, instances: [], wasWarm: true, troubles: [] };
  }
  const slots = await slotsOf(platform, row, release, wanted);
  const troubles: Trouble[] = [];
  const healthy: InstanceRow[] = [];
  let failure: Failure | null = null;
  let againInMs: number | null = null;
  let started = 0;
  const work = async (slot: Slot) => {
    if (slot.instance && wasUp.has(slot.instance.state)) {
      const seen = await lookAt(
        platform,
        row,
        release,
        slot.instance,
        { settings, patienceMs: wanted.patienceMs },
        signal,
      );
      if (seen.type === "healthy") return void healthy.push(await unretired(platform, seen.instance));
      if (seen.type === "unhealthy") {
        troubles.push({
          reason: seen.reason,
          instance: seen.instance,
          evidence: seen.instance.failure ?? {},
        });
        return;
      }
      troubles.push({ reason: seen.reason, instance: null, evidence: seen.evidence });
      againInMs = 0;
      return;
    }
    if (!slot.instance && slot.waitMs > 0) {
      againInMs = Math.min(againInMs ?? Infinity, slot.waitMs);
      return;
    }
    started += 1;
    const instance = slot.instance ?? (await newInstance(platform, row, release, slot.index));
    const brought = await bringUp(platform, row, release, instance, settings, signal);
    if (brought.type === "healthy") healthy.push(brought.instance);
    else if (brought.type === "waiting") againInMs = Math.min(againInMs ?? Infinity, brought.againInMs);
    else failure = brought.failure;
  };
  const rest = [...slots];
  const worker = async () => {
    for (let slot = rest.shift(); slot; slot = rest.shift()) await work(slot);
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, slots.length) }, worker));
  const isEnough = wanted.all ? healthy.length === wanted.count : healthy.length > 0;
  // What answers with errors still answers: better than nothing at all.
  const serving = isEnough ? healthy : wanted.all ? [] : troubles.flatMap(({ instance }) => instance ?? []);
  if (serving.length > 0) {
    const upstreams = serving
      .toSorted((a, b) => a.slot - b.slot)
      .map((one) => ({ hostUrl: platform.host.address.url, boxKey: one.box_key, port: one.port! }));
    return {
      type: "ready",
      target: { type: "boxes", upstreams },
      instances: serving,
      wasWarm: started === 0,
      troubles,
    };
  }
  if (failure) return { type: "failed", failure, troubles };
  if (againInMs === null && troubles.length > 0)
    return { type: "failed", failure: failureOf(troubles[0]!), troubles };
  return { type: "waiting", againInMs: againInMs ?? 250, troubles };
}

export const failureOf = (trouble: Trouble): Failure => ({
  code: "PROMOTE_FAILED",
  message: `The release does not stay healthy (${trouble.reason}). Traffic stays where it was.`,
  details: {
    ...trouble.evidence,
    reason: trouble.reason,
    exits: trouble.instance?.exits.slice(-5) ?? [],
  },
});

async function unretired(platform: Platform, instance: InstanceRow): Promise<InstanceRow> {
  if (!instance.retire_at) return instance;
  await updateInstance(platform, instance.id, { retire_at: null });
  return { ...instance, retire_at: null };
}

interface Slot {
  readonly index: number;
  readonly instance: InstanceRow | null;
  /** Before the next box of this slot is made, milliseconds. */
  readonly waitMs: number;
}

async function slotsOf(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
  wanted: Wanted,
): Promise<Slot[]> {
  const rows = await query<InstanceRow>(
    platform.pool,
    `select * from instances where deployment_id = $1 and release_id = $2 and config_version = $3 and stopping_at is null
       and (state <> 'destroyed' or (failure is not null and destroyed_at > now() - interval '10 minutes')) order by created_at`,
    [row.id, release.id, row.config_version],
  );
  return Array.from({ length: wanted.count }, (_, index) => {
    const own = rows.filter(({ slot }) => slot === index);
    const instance = own.findLast(({ state }) => state !== "destroyed") ?? null;
    return { index, instance, waitMs: wanted.all ? 0 : backoff(own) };
  });
}

/** Boxes that break again and again are made ever more rarely. */
function backoff(rows: readonly InstanceRow[]): number {
  const broken = rows.filter(({ state }) => state === "destroyed");
  const last = broken.at(-1)?.destroyed_at?.getTime();
  if (last === undefined || broken.length < 2) return 0;
  const pause = Math.min(longestBackoffMs, 1000 * 2 ** Math.min(broken.length - 2, 10));
  return Math.max(0, last + pause - Date.now());
}

async function newInstance(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
  slot: number,
): Promise<InstanceRow> {
  const before = (await queryOne<{ count: string }>(
    platform.pool,
    "select count(*) as count from instances where deployment_id = $1 and release_id = $2 and config_version = $3 and slot = $4",
    [row.id, release.id, row.config_version, slot],
  ))!;
  // The number makes a repeated step find its own row instead of making a second instance.
  const id = derivedId(row.id, release.id, String(row.config_version), String(slot), before.count);
  await platform.pool.query(
    "insert into instances (id, deployment_id, release_id, box_key, config_version, port, slot) values ($1, $2, $3, $4, $5, $6, $7) on conflict (id) do nothing",
    [id, row.id, release.id, `in-${id}`, row.config_version, release.port, slot],
  );
  faultPoint("control-plane.instance.after-row");
  return (await queryOne<InstanceRow>(platform.pool, "select * from instances where id = $1", [id]))!;
}

/** Stops that go on beside the steps of this process; another process begins them again. */
const stopping = new Map<string, Promise<void>>();

/**
 * Lets instances that no longer serve finish and go. Those of the releases before stay warm for a while, but
 * not with settings of the past: those never serve again.
 */
export async function retireInstances(
  platform: Platform,
  row: DeploymentRow,
  settings: RunSettings,
  keep: readonly InstanceRow[],
  signal: AbortSignal,
): Promise<void> {
  const kept = new Set(keep.map(({ id }) => id));
  const rows = (await instancesOf(platform.pool, row.id)).filter(({ id }) => !kept.has(id));
  if (rows.length === 0) return;
  const warm = keep.length > 0 || row.active_release_id ? await warmReleases(platform, row, settings) : [];
  for (const one of rows) {
    if (one.stopping_at) {
      begin(platform, one, settings, signal);
      continue;
    }
    const isActive = one.release_id === row.active_release_id && one.config_version === row.config_version;
    // A wanted one that is only ill or on its way.
    if (isActive && one.slot < settings.instances && keep.length > 0 && !one.retire_at) continue;
    const isWarm =
      one.config_version === row.config_version &&
      warm.includes(one.release_id) &&
      one.slot < settings.instances;
    const restMs = isWarm ? Math.max(settings.keep_warm_sec * 1000, drainMs(settings)) : drainMs(settings);
    if (one.retire_at === null || (!isWarm && one.retire_at.getTime() > Date.now() + restMs)) {
      await updateInstance(platform, one.id, { retire_at: new Date(Date.now() + restMs) });
    } else if (one.retire_at.getTime() <= Date.now()) {
      await updateInstance(platform, one.id, { stopping_at: new Date(), desired_state: "stopped" });
      begin(platform, one, settings, signal);
    }
  }
}

/** An app that takes its time to end holds up nothing else. */
function begin(platform: Platform, one: InstanceRow, settings: RunSettings, signal: AbortSignal): void {
  if (stopping.has(one.id)) return;
  const work = stopInstance(platform, one, settings, signal)
    .catch((error: unknown) => {
      if (!signal.aborted)
        platform.log.warn({ err: error, instance: one.id }, "an instance could not be stopped yet");
    })
    .finally(() => stopping.delete(one.id));
  stopping.set(one.id, work);
}

/** Those that served last before the one of now: where a rollback goes to, or came from. */
async function warmReleases(
  platform: Platform,
  row: DeploymentRow,
  settings: RunSettings,
): Promise<string[]> {
  const rows = await query<{ id: string }>(
    platform.pool,
    `select r.id from releases r join versions v on v.id = r.deployment_version_id
     where r.deployment_id = $1 and r.id is distinct from $2 and v.promoted_at is not null and v.verdict is null and r.state = 'ready'
     order by (r.id = $4) desc, v.promoted_at desc limit $3`,
    [row.id, row.active_release_id, settings.keep_warm_releases, row.previous_release_id],
  );
  return rows.map(({ id }) => id);
}

/** Warm and healthy instances of a release, as they are known to be; nothing is looked at or started. */
export async function warmTarget(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
): Promise<OtherRelease["target"] | null> {
  if (release.kind === "static")
    return {
      type: "static",
      digest: `sha256:${release.artifact_sha256}`,
      spaFallback: release.metadata["spa_fallback"] === true,
    };
  const rows = (await instancesOf(platform.pool, row.id)).filter(
    (one) =>
      one.release_id === release.id &&
      one.state === "healthy" &&
      one.verdict === null &&
      one.stopping_at === null &&
      one.config_version === row.config_version,
  );
  if (rows.length === 0) return null;
  return {
    type: "boxes",
    upstreams: rows.map((one) => ({
      hostUrl: platform.host.address.url,
      boxKey: one.box_key,
      port: one.port!,
    })),
  };
}

export async function removeInstances(
  platform: Platform,
  deploymentId: string,
  settings: RunSettings,
  signal: AbortSignal,
): Promise<void> {
  const rows = await instancesOf(platform.pool, deploymentId);
  await Promise.all(rows.map((one) => stopInstance(platform, one, settings, signal)));
}
