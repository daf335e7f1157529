import { PlatformError } from "@platform/contract";
import type { RunSettings } from "@platform/contract";
import { faultPoint } from "@platform/daemon";
import { HostError, type BoxStats } from "@platform/host-api";
import type { ProbeResult } from "@platform/guest-protocol";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";
import {
  appService,
  assertProvenance,
  notAsBuilt,
  deploymentEnvironment,
  runSpec,
  type ReleaseRow,
} from "../releases/index.ts";
import { oomEvidence } from "./exits.ts";
import { stopInstance } from "./stop.ts";
import { updateInstance, type DeploymentRow, type InstanceRow, type Promotion } from "./store.ts";

export type Failure = NonNullable<Promotion["failure"]>;

export const healthTimeoutMs = 60_000;
/** A look at a starting app ends after this time, so that a cancel is heard; milliseconds. */
const sliceMs = 5_000;

export type Brought =
  | { readonly type: "healthy"; readonly instance: InstanceRow }
  | { readonly type: "waiting"; readonly againInMs: number }
  | { readonly type: "failed"; readonly failure: Failure };

/** One step of an instance from its row to an app that was seen to answer. */
export async function bringUp(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
  instance: InstanceRow,
  settings: RunSettings,
  signal: AbortSignal,
): Promise<Brought> {
  const refused = await provenanceFailure(platform, release);
  if (refused) return discard(platform, instance, refused, settings, signal);
  const { values, linked } = await deploymentEnvironment(platform, row.id);
  if (linked.waitingFor.length > 0) return { type: "waiting", againInMs: 500 };
  await updateInstance(platform, instance.id, { state: "starting" });
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
      return discard(platform, instance, { code, message, details }, settings, signal);
    }
    return discard(
      platform,
      instance,
      {
        code: error.code === "ISOLATION_UNAVAILABLE" ? error.code : "PROMOTE_FAILED",
        message: `The instance was not started: ${error.message}`,
        details: { reason: error.code.toLowerCase() },
      },
      settings,
      signal,
    );
  }
  faultPoint("control-plane.instance.after-box");
  const startedAt = instance.started_at ?? new Date();
  if (!instance.started_at) await updateInstance(platform, instance.id, { started_at: startedAt });
  const guest = guestOf(platform.host, instance.box_key);
  const probe = await guest.probe(
    release.port!,
    { path: release.health_check_path ?? "/", timeoutMs: sliceMs, service: appService },
    signal,
  );
  if (probe.ok) {
    const set = {
      state: "healthy" as const,
      last_health_check_at: new Date(),
      healthy_since: new Date(),
      retire_at: null,
      failure: null,
    };
    await updateInstance(platform, instance.id, set);
    return { type: "healthy", instance: { ...instance, ...set, started_at: startedAt, port: release.port } };
  }
  const hasTime = Date.now() - startedAt.getTime() < healthTimeoutMs;
  if (hasTime && probe.reason !== "process_exited" && probe.reason !== "bound_to_loopback")
    return { type: "waiting", againInMs: 0 };
  return discard(
    platform,
    instance,
    await unhealthy(platform, release, instance, probe, Object.values(values)),
    settings,
    signal,
  );
}

async function unhealthy(
  platform: Platform,
  release: ReleaseRow,
  instance: InstanceRow,
  probe: ProbeResult,
  values: readonly string[],
): Promise<Failure> {
  const lines = await guestOf(platform.host, instance.box_key)
    .services.logs(appService, 40)
    .catch(() => []);
  const secrets = values.filter((value) => value.length >= 6);
  const tail = lines
    .filter((line) => line.stream !== "agent")
    .map((line) => secrets.reduce((text, secret) => text.replaceAll(secret, "[masked]"), line.line));
  const stats = await platform.host.stats(instance.box_key).catch(() => null);
  const oom = await oomOf(platform, instance, stats);
  const reason = oom ? "oom" : (probe.reason ?? "unhealthy");
  return {
    code: "PROMOTE_FAILED",
    message: `The release did not become healthy (${reason}) on ${release.health_check_path ?? "/"} at port ${release.port}. ${oom ? `${oom.suggestion} ` : ""}Traffic stays where it was. Its last lines are in details.log_tail.`,
    details: {
      reason,
      http_status: probe.httpStatus,
      health_check_path: release.health_check_path,
      port: release.port,
      seen: probe.evidence,
      log_tail: tail,
      ...(oom ?? {}),
    },
  };
}

/** The counter of a box begins at nothing, so what it says now happened in this instance. */
async function oomOf(platform: Platform, instance: InstanceRow, stats: BoxStats | null) {
  const kills = stats?.oomKills ?? 0;
  if (!stats || kills === 0) return null;
  const box = await platform.host.box(instance.box_key).catch(() => null);
  return oomEvidence(stats, box?.notices ?? [], kills);
}

/** Null when the release is what was signed; else why nothing of it may start. */
export async function provenanceFailure(platform: Platform, release: ReleaseRow): Promise<Failure | null> {
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
  failure: Failure,
  settings: RunSettings,
  signal: AbortSignal,
): Promise<Brought> {
  await stopInstance(platform, instance, settings, signal, { failure });
  return { type: "failed", failure };
}
