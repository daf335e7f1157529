import { createHash } from "node:crypto";
import { faultPoint } from "@platform/daemon";
import { PlatformError, type ProblemCode } from "@platform/contract";
import { HostError, type BoxSpec } from "@platform/host-api";
import type { GuestClient } from "@platform/guest-protocol";
import { query } from "@platform/postgres";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";
import { deploymentEnvironment } from "./environment.ts";
import { findStaticOutput, readAppFiles, type StaticOutput } from "./files.ts";
import { planBuild, type Plan } from "./plan.ts";
import { preflight } from "./preflight.ts";
import { BuildLog, loadBuild, loadRelease, type BuildFailure, type BuildRow } from "./store.ts";

const restMs = 15_000;
const installTimeoutMs = 15 * 60_000;
const buildTimeoutMs = 20 * 60_000;

/** Never part of a source: rebuilt, or secret. */
const sourceExcludes = [
  ".git",
  ".miosa",
  "node_modules",
  ".venv",
  ".env",
  ".env.local",
  ".env.production",
  ".env.development",
  ".env.test",
];
const bundleExcludes = [
  ".git",
  ".miosa",
  ".env",
  ".env.local",
  ".env.production",
  ".env.development",
  ".env.test",
  ".npm",
  ".cache",
];

const buildLimits: BoxSpec["limits"] = {
  memoryBytes: 8 * 1024 ** 3,
  cpuMillis: 2000,
  maxProcesses: 4096,
  diskBytes: 20 * 1024 ** 3,
};

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

const set = async (platform: Platform, id: string, values: Record<string, unknown>) => {
  const names = Object.keys(values);
  await platform.pool.query(
    `update builds set ${names.map((name, index) => `${name} = $${index + 2}`).join(", ")} where id = $1 and state in ('queued', 'building')`,
    [id, ...Object.values(values)],
  );
  platform.signals.announce(`build:${id}`);
};

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
  await set(platform, row.id, { state: "failed", failure, finished_at: new Date() });
}

const buildKey = (row: BuildRow) => `bd-${row.id}`;
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
  await set(platform, first.id, { state: "building", started_at: startedAt });
  await platform.pool.query("update versions set state = 'building' where id = $1 and state = 'created'", [
    first.version_id,
  ]);
  const sourceDigest = first.source_digest ?? (await freeze(platform, first, log, signal));
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
    await set(platform, row.id, { step: "preflight" });
    await preflight(
      platform,
      {
        buildId: row.id,
        deploymentId: row.deployment_id,
        key: preflightKey(row),
        digest: row.bundle_digest!,
        plan,
        log,
      },
      signal,
    );
  }
  await removed;
  faultPoint("control-plane.build.before-ready");
  await finish(platform, row, sourceDigest, startedAt, env, log);
}

async function freeze(
  platform: Platform,
  row: BuildRow,
  log: BuildLog,
  signal: AbortSignal,
): Promise<string> {
  await set(platform, row.id, { step: "freeze" });
  if (row.request.source_digest) {
    await set(platform, row.id, { source_digest: row.request.source_digest });
    return row.request.source_digest;
  }
  const sandboxes = await query<{ box_key: string }>(
    platform.pool,
    "select box_key from sandboxes where id = $1",
    [row.request.source_sandbox_id],
  );
  if (!sandboxes[0])
    throw new PlatformError("SOURCE_EMPTY", "The sandbox to publish no longer exists.", {
      details: { step: "freeze" },
    });
  try {
    const frozen = await platform.host.freeze(
      sandboxes[0].box_key,
      { path: "/workspace", exclude: sourceExcludes },
      signal,
    );
    log.add("system", `froze ${frozen.files} files, ${frozen.sizeBytes} bytes, ${frozen.digest}`);
    if (frozen.files === 0)
      throw new PlatformError(
        "SOURCE_EMPTY",
        "The workspace is empty. Write the app's files below /workspace first.",
        { details: { step: "freeze", path: "/workspace" } },
      );
    await set(platform, row.id, { source_digest: frozen.digest });
    return frozen.digest;
  } catch (error) {
    throw freezeProblem(error);
  }
}

const freezeCodes: Record<string, ProblemCode> = {
  SOURCE_CHANGED: "SOURCE_CHANGED",
  SYMLINK_ESCAPES: "SYMLINK_ESCAPES",
  DISK_FULL: "DISK_FULL",
  NOT_FOUND: "SOURCE_EMPTY",
  INVALID: "SYMLINK_ESCAPES",
};

function freezeProblem(error: unknown): unknown {
  if (!(error instanceof HostError)) return error;
  const code = freezeCodes[error.code];
  return code
    ? new PlatformError(code, error.message, { details: { step: "freeze", ...error.details }, cause: error })
    : error;
}

async function makeBundle(
  platform: Platform,
  row: BuildRow,
  sourceDigest: string,
  env: Record<string, string>,
  log: BuildLog,
  signal: AbortSignal,
): Promise<void> {
  await set(platform, row.id, { step: "prepare" });
  // A box that an earlier, cut-off run left may be half built: start from the frozen files again.
  await platform.host.deleteBox(buildKey(row), signal);
  await platform.host.putBox(
    buildKey(row),
    {
      purpose: "build",
      minimumIsolation: "namespaces",
      content: { type: "source", digest: sourceDigest },
      limits: buildLimits,
      env: { CI: "1", npm_config_update_notifier: "false" },
      egress: { mode: "allow-all", allowedDomains: [], allowedCidrs: [], deniedCidrs: [] },
      hostname: "build",
    },
    signal,
  );
  const guest = guestOf(platform.host, buildKey(row));
  const plan = planBuild(row.request, await readAppFiles(guest, "/workspace"));
  for (const reason of plan.because) log.add("system", reason);
  await set(platform, row.id, { plan: JSON.stringify(plan), step: "install" });
  const oomBefore = (await platform.host.stats(buildKey(row), signal))?.oomKills ?? 0;
  const command = (step: string, text: string, timeoutMs: number) =>
    runStep(
      platform,
      row,
      guest,
      { step, command: text, timeoutMs, root: plan.root, kind: plan.kind, oomBefore },
      log,
      signal,
    );
  if (plan.install) await command("install", plan.install, installTimeoutMs);
  await set(platform, row.id, { step: "build" });
  faultPoint("control-plane.build.before-build");
  if (plan.build) await command("build", plan.build, buildTimeoutMs);
  await set(platform, row.id, { step: "collect" });
  const output: StaticOutput | null = plan.kind === "static" ? await findStaticOutput(guest, plan) : null;
  const bundled = await platform.host
    .bundle(
      buildKey(row),
      {
        path: output?.folder ?? plan.root,
        exclude:
          output && output.folder !== plan.root
            ? [".git"]
            : plan.kind === "static"
              ? [...bundleExcludes, "node_modules"]
              : bundleExcludes,
        kind: plan.kind,
        startCommand: plan.start,
        port: plan.port,
        healthCheckPath: plan.healthCheckPath,
        env: Object.keys(env)
          .sort()
          .map((name) => ({ name, scope: "run" as const, required: plan.requiredEnv.includes(name) })),
      },
      signal,
    )
    .catch((error: unknown) => {
      throw freezeProblem(error);
    });
  log.add("system", `bundle ${bundled.digest}, ${bundled.files} files, ${bundled.sizeBytes} bytes`);
  await platform.pool.query(
    "update releases set size_bytes = $2, metadata = metadata || $3::jsonb where id = $1",
    [row.release_id, bundled.sizeBytes, { spa_fallback: output?.spa ?? false, files: bundled.files }],
  );
  await set(platform, row.id, { bundle_digest: bundled.digest });
}

interface Step {
  readonly step: string;
  readonly command: string;
  readonly timeoutMs: number;
  readonly root: string;
  readonly kind: Plan["kind"];
  readonly oomBefore: number;
}

async function runStep(
  platform: Platform,
  row: BuildRow,
  guest: GuestClient,
  step: Step,
  log: BuildLog,
  signal: AbortSignal,
): Promise<void> {
  log.add("system", `$ ${step.command}`);
  const rest = { stdout: "", stderr: "" };
  const push = (stream: "stdout" | "stderr") => (chunk: string) => {
    const lines = (rest[stream] + chunk).split(/\r?\n/);
    rest[stream] = lines.pop() ?? "";
    for (const line of lines) log.add(stream, line);
  };
  const result = await guest.exec(step.command, {
    cwd: step.root,
    timeoutMs: step.timeoutMs,
    maxOutputBytes: 0,
    onStdout: push("stdout"),
    onStderr: push("stderr"),
    signal,
  });
  for (const stream of ["stdout", "stderr"] as const) if (rest[stream]) log.add(stream, rest[stream]);
  if (result.exitCode === 0 && !result.timedOut) return;
  const stats = await platform.host.stats(buildKey(row), signal);
  const details = {
    step: step.step,
    command: log.mask(step.command),
    exit_code: result.timedOut ? null : result.exitCode,
    log_tail: await log.tail(40),
    build_id: row.id,
  };
  if ((stats?.oomKills ?? 0) > step.oomBefore) {
    throw new PlatformError(
      "BUILD_OUT_OF_MEMORY",
      `The ${step.step} step ran out of memory (limit ${buildLimits.memoryBytes / 1024 ** 2} MiB). Build with less parallelism, or lower the memory it needs.`,
      {
        details: { ...details, limit_bytes: stats?.memoryLimitBytes, peak_bytes: stats?.memoryPeakBytes },
      },
    );
  }
  if (result.timedOut)
    throw new PlatformError(
      "BUILD_TIMEOUT",
      `The ${step.step} step did not end within ${step.timeoutMs / 60_000} minutes. Its last lines are in details.log_tail.`,
      { details },
    );
  if (step.step === "install")
    throw new PlatformError(
      "INSTALL_FAILED",
      `"${details.command}" ended with ${result.exitCode}. Its last lines are in details.log_tail.`,
      { details },
    );
  const code = step.kind === "static" ? "STATIC_BUILD_FAILED" : "BUILD_FAILED";
  throw new PlatformError(
    code,
    `"${details.command}" ended with ${result.exitCode}. Its last lines are in details.log_tail.`,
    { details, errors: { build_command: [`ended with ${result.exitCode}`] } },
  );
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
  const provenance = {
    source_digest: sourceDigest,
    bundle_digest: row.bundle_digest,
    install_command: plan.install,
    build_command: plan.build,
    toolchain: { node: process.version, template: "host" },
    started_at: startedAt.toISOString(),
    finished_at: new Date().toISOString(),
    built_by: row.actor,
    source_sandbox_id: row.request.source_sandbox_id ?? null,
    build_id: row.id,
  };
  const manifest = {
    kind: plan.kind,
    start_command: plan.start,
    port: plan.port,
    health_check_path: plan.healthCheckPath,
    // Hashes let one see that a value changed; values are never stored with a release.
    env: Object.entries(env)
      .sort(([a], [b]) => a.localeCompare(b))
      .map(([name, value]) => ({
        name,
        scope: "run",
        required: plan.requiredEnv.includes(name),
        value_sha256: createHash("sha256").update(value).digest("hex"),
      })),
    required_env: plan.requiredEnv,
  };
  await platform.pool.query(
    `update releases set state = case when state = 'pending' then 'ready' else state end, artifact_sha256 = $2, artifact_manifest = $3, start_command = $4, port = $5,
       health_check_path = $6, metadata = metadata || $7::jsonb, ready_at = coalesce(ready_at, now()), kind = $8 where id = $1`,
    [
      release.id,
      sha256,
      manifest,
      plan.start,
      plan.port,
      plan.healthCheckPath,
      { provenance, artifact_sha256: sha256 },
      plan.kind === "static" ? "static" : "oci",
    ],
  );
  await platform.pool.query(
    `update versions set state = 'ready', kind = $2, artifact_sha256 = $3, artifact_manifest = $4, runtime_command = $5, runtime_port = $6, health_check_path = $7 where id = $1`,
    [row.version_id, plan.kind, sha256, manifest, plan.start, plan.port, plan.healthCheckPath],
  );
  log.add("system", `release ${release.id} is ready`);
  await log.flush();
  await cleaned;
  await set(platform, row.id, { state: "succeeded", step: "done", finished_at: new Date() });
}
