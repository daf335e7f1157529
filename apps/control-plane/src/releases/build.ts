import { faultPoint } from "@platform/daemon";
import { PlatformError } from "@platform/contract";
import { HostError } from "@platform/host-api";
import type { Platform } from "../platform.ts";
import { deploymentEnvironment } from "./environment.ts";
import { freeze, makeBundle } from "./make-bundle.ts";
import { preflight } from "./preflight.ts";
import { attest } from "./provenance.ts";
import { buildKey } from "./run-step.ts";
import { valueDigests } from "./signing-key.ts";
import { BuildLog, loadBuild, loadRelease, setBuild, type BuildFailure, type BuildRow } from "./store.ts";

const restMs = 15_000;

/** One build from its frozen files to a bundle that was seen to run. Each step is stored, so that a new run continues. */
export function createBuildStep(platform: Platform) {
  return async (id: string, signal: AbortSignal): Promise<number> => {
    const row = await loadBuild(platform.pool, id);
    if (!row || (row.state !== "queued" && row.state !== "building")) return restMs;
    faultPoint("control-plane.build.claimed");
    const env = await deploymentEnvironment(platform, row.deployment_id);
    const log = new BuildLog(platform, id, Object.values(env.values));
    try {
      await run(platform, row, env.values, log, signal);
    } catch (error) {
      if (signal.aborted) throw error;
      const failure = toFailure(error, log);
      if (!failure) throw error;
      await fail(platform, row, failure, log);
    }
    return restMs;
  };
}

function toFailure(error: unknown, log: BuildLog): BuildFailure | null {
  if (error instanceof PlatformError) {
    if (error.isRetryable && error.code !== "SOURCE_CHANGED") return null;
    return {
      code: error.code,
      message: log.mask(error.message),
      details: JSON.parse(log.mask(JSON.stringify(error.details))) as Record<string, unknown>,
      ...(error.errors ? { errors: error.errors } : {}),
    };
  }
  if (error instanceof HostError && (error.code === "ISOLATION_UNAVAILABLE" || error.code === "DISK_FULL")) {
    return { code: error.code, message: error.message, details: {} };
  }
  return null;
}

async function fail(platform: Platform, row: BuildRow, failure: BuildFailure, log: BuildLog): Promise<void> {
  log.add("system", `failed: ${failure.code}: ${failure.message}`);
  await log.flush();
  await cleanUp(platform, row);
  await platform.pool.query("update releases set state = 'failed' where id = $1 and state = 'pending'", [
    row.release_id,
  ]);
  await platform.pool.query(
    "update versions set state = 'failed' where id = $1 and state in ('created', 'building')",
    [row.version_id],
  );
  await setBuild(platform, row.id, { state: "failed", failure, finished_at: new Date() });
  // What its visitors see changes, where nothing serves.
  await platform.pool.query("update deployments set next_look_at = now() where id = $1", [row.deployment_id]);
  platform.signals.announce("work:deployments");
}

const preflightKey = (row: BuildRow) => `pf-${row.id}`;

async function cleanUp(platform: Platform, row: BuildRow): Promise<void> {
  await Promise.all([buildKey(row), preflightKey(row)].map((key) => platform.host.deleteBox(key)));
}

async function run(
  platform: Platform,
  first: BuildRow,
  env: Record<string, string>,
  log: BuildLog,
  signal: AbortSignal,
): Promise<void> {
  const startedAt = first.started_at ?? new Date();
  await setBuild(platform, first.id, { state: "building", started_at: startedAt });
  await platform.pool.query("update versions set state = 'building' where id = $1 and state = 'created'", [
    first.version_id,
  ]);
  // Boxes that an earlier, cut-off run left may be half built: they go while the source is frozen.
  const [sourceDigest] = await Promise.all([
    first.source_digest ?? freeze(platform, first, log, signal),
    cleanUp(platform, first),
  ]);
  faultPoint("control-plane.build.after-freeze");
  let row = (await loadBuild(platform.pool, first.id))!;
  if (!row.bundle_digest || !row.plan) {
    await makeBundle(platform, row, sourceDigest, env, log, signal);
    row = (await loadBuild(platform.pool, first.id))!;
  }
  faultPoint("control-plane.build.after-bundle");
  // The build's box goes while the release is tried; a failure here is met again by the clean-up.
  const removed = platform.host.deleteBox(buildKey(row), signal).catch(() => undefined);
  const plan = row.plan!;
  if (plan.kind === "dynamic") {
    await setBuild(platform, row.id, { step: "preflight" });
    await preflight(
      platform,
      {
        buildId: row.id,
        deploymentId: row.deployment_id,
        key: preflightKey(row),
        digest: row.bundle_digest!,
        plan,
        log,
        sandboxId: row.request.source_sandbox_id ?? null,
      },
      signal,
    );
  }
  await removed;
  faultPoint("control-plane.build.before-ready");
  await finish(platform, row, sourceDigest, startedAt, env, log);
}

async function finish(
  platform: Platform,
  row: BuildRow,
  sourceDigest: string,
  startedAt: Date,
  env: Record<string, string>,
  log: BuildLog,
): Promise<void> {
  // Ends before the build counts as over, so that no box outlives it.
  const cleaned = cleanUp(platform, row);
  cleaned.catch(() => undefined); // Awaited below; until then it must not count as unhandled.
  const plan = row.plan!;
  const release = (await loadRelease(platform.pool, row.release_id))!;
  const sha256 = row.bundle_digest!.replace("sha256:", "");
  const finishedAt = new Date();
  const sbomDigest = (release.metadata["sbom_digest"] as string | null | undefined) ?? null;
  const attestation = await attest(platform, {
    row,
    plan,
    sourceDigest,
    sbomDigest,
    env,
    startedAt,
    finishedAt,
  });
  const provenance = {
    source_digest: sourceDigest,
    bundle_digest: row.bundle_digest,
    sbom_digest: sbomDigest,
    install_command: plan.install,
    build_command: plan.build,
    toolchain: { node: process.version, template: "host" },
    started_at: startedAt.toISOString(),
    finished_at: finishedAt.toISOString(),
    built_by: row.actor,
    source_sandbox_id: row.request.source_sandbox_id ?? null,
    build_id: row.id,
  };
  const digest = await valueDigests(platform, row.deployment_id);
  const manifest = {
    kind: plan.kind,
    start_command: plan.start,
    port: plan.port,
    health_check_path: plan.healthCheckPath,
    // Keyed digests let one see that a value changed; values are never stored with a release.
    env: Object.entries(env)
      .sort(([a], [b]) => a.localeCompare(b))
      .map(([name, value]) => ({
        name,
        scope: "run",
        required: plan.requiredEnv.includes(name),
        value_sha256: digest(value),
      })),
    required_env: plan.requiredEnv,
  };
  await platform.pool.query(
    `update releases set state = case when state = 'pending' then 'ready' else state end, artifact_sha256 = $2, artifact_manifest = $3, start_command = $4, port = $5,
       health_check_path = $6, metadata = metadata || $7::jsonb, ready_at = coalesce(ready_at, now()), kind = $8, attestation = $9 where id = $1`,
    [
      release.id,
      sha256,
      manifest,
      plan.start,
      plan.port,
      plan.healthCheckPath,
      { provenance, artifact_sha256: sha256 },
      plan.kind === "static" ? "static" : "oci",
      JSON.stringify(attestation),
    ],
  );
  await platform.pool.query(
    `update versions set state = 'ready', kind = $2, artifact_sha256 = $3, artifact_manifest = $4, runtime_command = $5, runtime_port = $6, health_check_path = $7 where id = $1 and state <> 'failed'`,
    [row.version_id, plan.kind, sha256, manifest, plan.start, plan.port, plan.healthCheckPath],
  );
  log.add("system", `release ${release.id} is ready`);
  await log.flush();
  await cleaned;
  await setBuild(platform, row.id, { state: "succeeded", step: "done", finished_at: new Date() });
}
