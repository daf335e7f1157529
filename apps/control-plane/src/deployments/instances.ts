import { PlatformError } from "@platform/contract";
import { faultPoint } from "@platform/daemon";
import { HostError, type BoxStats } from "@platform/host-api";
import type { ProbeResult } from "@platform/guest-protocol";
import { query, queryOne } from "@platform/postgres";
import { guestOf } from "../guests.ts";
import { derivedId } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import {
  appService,
  assertProvenance,
  notAsBuilt,
  deploymentEnvironment,
  runSpec,
  type ReleaseRow,
} from "../releases/index.ts";
import type { DeploymentRow, InstanceRow, Promotion } from "./store.ts";

const healthTimeoutMs = 60_000;
/** An instance that no longer gets traffic finishes what it has, milliseconds. */
const drainMs = 15_000;
/** The release before the active one stays warm this long, so that rollback is a move of the route only. */
const keepWarmMs = 30 * 60_000;

export type InstanceOutcome =
  | { readonly type: "healthy"; readonly instance: InstanceRow; readonly wasWarm: boolean }
  | { readonly type: "waiting"; readonly againInMs: number }
  | { readonly type: "failed"; readonly failure: NonNullable<Promotion["failure"]> };

const update = async (platform: Platform, id: string, set: Record<string, unknown>) => {
  const names = Object.keys(set);
  await platform.pool.query(
    `update instances set ${names.map((name, index) => `${name} = $${index + 2}`).join(", ")} where id = $1`,
    [id, ...Object.values(set)],
  );
};

/** An instance of this release with the configuration of now that was just seen to answer. */
export async function ensureInstance(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
  signal: AbortSignal,
): Promise<InstanceOutcome> {
  const current = await queryOne<InstanceRow>(
    platform.pool,
    `select * from instances where deployment_id = $1 and release_id = $2 and config_version = $3 and state in ('provisioning', 'starting', 'healthy') order by created_at desc limit 1`,
    [row.id, release.id, row.config_version],
  );
  if (current?.state === "healthy") {
    const still = await stillHealthy(platform, current, release, signal);
    if (still) {
      if (current.retire_at) await update(platform, current.id, { retire_at: null });
      return { type: "healthy", instance: { ...current, retire_at: null }, wasWarm: true };
    }
  }
  const instance =
    current && current.state !== "healthy" ? current : await newInstance(platform, row, release);
  return bringUp(platform, row, release, instance, signal);
}

async function newInstance(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
): Promise<InstanceRow> {
  const count = Number(
    (await queryOne<{ count: string }>(
      platform.pool,
      "select count(*) as count from instances where deployment_id = $1",
      [row.id],
    ))!.count,
  );
  // The number makes a repeated step find its own row instead of making a second instance.
  const id = derivedId(row.id, release.id, String(row.config_version), String(count));
  await platform.pool.query(
    "insert into instances (id, deployment_id, release_id, box_key, config_version, port) values ($1, $2, $3, $4, $5, $6) on conflict (id) do nothing",
    [id, row.id, release.id, `in-${id}`, row.config_version, release.port],
  );
  faultPoint("control-plane.instance.after-row");
  return (await queryOne<InstanceRow>(platform.pool, "select * from instances where id = $1", [id]))!;
}

async function bringUp(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
  instance: InstanceRow,
  signal: AbortSignal,
): Promise<InstanceOutcome> {
  const refused = await provenanceFailure(platform, release);
  if (refused) return discard(platform, instance, refused, signal);
  const { values, linked } = await deploymentEnvironment(platform, row.id);
  if (linked.waitingFor.length > 0) return { type: "waiting", againInMs: 500 };
  await update(platform, instance.id, { state: "starting" });
  const app = {
    digest: `sha256:${release.artifact_sha256}`,
    start: release.start_command!,
    port: release.port!,
    hostname: row.slug,
  };
  try {
    await platform.host.putBox(instance.box_key, runSpec(platform, app, values, linked), signal);
  } catch (error) {
    if (!(error instanceof HostError) || error.code === "UNREACHABLE" || error.code === "INTERNAL")
      throw error;
    const tampered = notAsBuilt(error);
    if (tampered) {
      const { code, message, details } = tampered;
      return discard(platform, instance, { code, message, details }, signal);
    }
    return discard(
      platform,
      instance,
      {
        code: error.code === "ISOLATION_UNAVAILABLE" ? error.code : "PROMOTE_FAILED",
        message: `The instance was not started: ${error.message}`,
        details: { reason: error.code.toLowerCase() },
      },
      signal,
    );
  }
  faultPoint("control-plane.instance.after-box");
  const guest = guestOf(platform.host, instance.box_key);
  const before = await platform.host.stats(instance.box_key, signal);
  const probe = await guest.probe(
    release.port!,
    { path: release.health_check_path ?? "/", timeoutMs: healthTimeoutMs, service: appService },
    signal,
  );
  if (probe.ok) {
    await update(platform, instance.id, {
      state: "healthy",
      last_health_check_at: new Date(),
      retire_at: null,
      failure: null,
    });
    return {
      type: "healthy",
      instance: { ...instance, state: "healthy", port: release.port },
      wasWarm: false,
    };
  }
  const lines = await guest.services.logs(appService, 40).catch(() => []);
  const secrets = Object.values(values).filter((value) => value.length >= 6);
  const tail = lines
    .filter((line) => line.stream !== "agent")
    .map((line) => secrets.reduce((text, secret) => text.replaceAll(secret, "[masked]"), line.line));
  return discard(
    platform,
    instance,
    unhealthy(release, probe, tail, before, await platform.host.stats(instance.box_key, signal)),
    signal,
  );
}

function unhealthy(
  release: ReleaseRow,
  probe: ProbeResult,
  logTail: string[],
  before: BoxStats | null,
  after: BoxStats | null,
): NonNullable<Promotion["failure"]> {
  const oom = (after?.oomKills ?? 0) > (before?.oomKills ?? 0);
  const reason = oom ? "oom" : (probe.reason ?? "unhealthy");
  return {
    code: "PROMOTE_FAILED",
    message: `The release did not become healthy (${reason}) on ${release.health_check_path ?? "/"} at port ${release.port}. Traffic stays where it was. Its last lines are in details.log_tail.`,
    details: {
      reason,
      http_status: probe.httpStatus,
      health_check_path: release.health_check_path,
      port: release.port,
      log_tail: logTail,
      ...(oom ? { limit_bytes: after?.memoryLimitBytes, peak_bytes: after?.memoryPeakBytes } : {}),
    },
  };
}

/** Null when the release is what was signed; else why nothing of it may start. */
export async function provenanceFailure(
  platform: Platform,
  release: ReleaseRow,
): Promise<NonNullable<Promotion["failure"]> | null> {
  try {
    await assertProvenance(platform, release);
    return null;
  } catch (error) {
    if (!(error instanceof PlatformError)) throw error;
    return { code: error.code, message: error.message, details: error.details };
  }
}

async function discard(
  platform: Platform,
  instance: InstanceRow,
  failure: NonNullable<Promotion["failure"]>,
  signal: AbortSignal,
): Promise<InstanceOutcome> {
  await platform.host.deleteBox(instance.box_key, signal);
  await update(platform, instance.id, { state: "destroyed", failure });
  return { type: "failed", failure };
}

async function stillHealthy(
  platform: Platform,
  instance: InstanceRow,
  release: ReleaseRow,
  signal: AbortSignal,
): Promise<boolean> {
  const box = await platform.host.box(instance.box_key, signal);
  if (box?.state === "running") {
    const guest = guestOf(platform.host, instance.box_key);
    // A restart takes a moment: the guest restarts the process, so a short wait is part of being healthy.
    const probe = await guest
      .probe(release.port!, { path: release.health_check_path ?? "/", timeoutMs: 5_000 }, signal)
      .catch(() => null);
    const record = await guest.services.get(appService).catch(() => null);
    if (probe?.ok) {
      await update(platform, instance.id, {
        last_health_check_at: new Date(),
        restarts: record?.restarts ?? instance.restarts,
      });
      return true;
    }
    // The app answers with errors or is between two restarts: a new box would run the same code. Keep it.
    if (probe && record && probe.reason !== "not_listening") {
      await update(platform, instance.id, {
        restarts: record.restarts,
        failure: { reason: probe.reason, http_status: probe.httpStatus },
      });
      return true;
    }
  }
  const failure = box?.failure ?? { reason: "guest_lost", detail: "the box is gone or does not answer" };
  await platform.host.deleteBox(instance.box_key, signal);
  await update(platform, instance.id, { state: "destroyed", failure: JSON.stringify(failure) });
  return false;
}

/**
 * Lets instances that no longer serve finish and go. The previous release stays warm for a while, but not
 * with settings of the past: those never serve again.
 *
 * @param keep the instance that serves
 */
export async function retireInstances(
  platform: Platform,
  deploymentId: string,
  keep: InstanceRow | null,
  signal: AbortSignal,
): Promise<void> {
  const rows = await query<InstanceRow>(
    platform.pool,
    "select * from instances where deployment_id = $1 and state <> 'destroyed' and ($2::uuid is null or id <> $2)",
    [deploymentId, keep?.id ?? null],
  );
  if (rows.length === 0) return;
  const previousReleaseId = keep ? await previousRelease(platform, deploymentId, keep.release_id) : null;
  for (const row of rows) {
    const isWarm =
      keep !== null && row.config_version === keep.config_version && row.release_id === previousReleaseId;
    const drainedAt = Date.now() + drainMs;
    if (row.retire_at === null || (!isWarm && row.retire_at.getTime() > drainedAt)) {
      await update(platform, row.id, { retire_at: new Date(Date.now() + (isWarm ? keepWarmMs : drainMs)) });
    } else if (row.retire_at.getTime() <= Date.now()) {
      await platform.host.deleteBox(row.box_key, signal);
      await update(platform, row.id, { state: "destroyed" });
    }
  }
}

/** What served last before the release that serves now: the one a rollback goes to, or came from. */
async function previousRelease(
  platform: Platform,
  deploymentId: string,
  activeReleaseId: string,
): Promise<string | null> {
  const row = await queryOne<{ id: string }>(
    platform.pool,
    `select r.id from releases r join versions v on v.id = r.deployment_version_id
     where r.deployment_id = $1 and r.id <> $2 and v.promoted_at is not null order by v.promoted_at desc limit 1`,
    [deploymentId, activeReleaseId],
  );
  return row?.id ?? null;
}

export async function removeInstances(
  platform: Platform,
  deploymentId: string,
  signal: AbortSignal,
): Promise<void> {
  for (const row of await query<InstanceRow>(
    platform.pool,
    "select * from instances where deployment_id = $1 and state <> 'destroyed'",
    [deploymentId],
  )) {
    await platform.host.deleteBox(row.box_key, signal);
    await update(platform, row.id, { state: "destroyed" });
  }
}
