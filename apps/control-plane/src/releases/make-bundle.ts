import type { SecretFinding } from "@platform/bundle";
import { faultPoint } from "@platform/daemon";
import { PlatformError, type ProblemCode, type ProblemPatch } from "@platform/contract";
import { HostError, type BoxSpec } from "@platform/host-api";
import type { GuestClient } from "@platform/guest-protocol";
import { query } from "@platform/postgres";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";
import { findStaticOutput, readAppFiles, type StaticOutput } from "./files.ts";
import { planBuild, toolsFolder, type Plan, type Tree } from "./detect/index.ts";
import { diagnoseBuild, diagnoseInstall, errorLines, type Diagnosis } from "./diagnosis.ts";
import { installKey, keepInstall, restoreInstall } from "./install-cache.ts";
import { knownSecrets, secretProblem } from "./secrets.ts";
import { setBuild, type BuildLog, type BuildRow } from "./store.ts";

const installTimeoutMs = 15 * 60_000;
const buildTimeoutMs = 20 * 60_000;

/** Never part of a source: rebuilt, or secret. */
const sourceExcludes = [
  ".git",
  // Says what a sandbox offers: of no use, and nobody's business, in production.
  "AGENTS.md",
  ".miosa",
  "node_modules",
  ".venv",
  ".python",
  ".tools",
  "__pycache__",
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
  ".yarn",
  "__pycache__",
  ".cache",
];

const buildLimits: BoxSpec["limits"] = {
  memoryBytes: 8 * 1024 ** 3,
  cpuMillis: 2000,
  maxProcesses: 4096,
  diskBytes: 20 * 1024 ** 3,
};

export const buildKey = (row: BuildRow) => `bd-${row.id}`;

export async function freeze(
  platform: Platform,
  row: BuildRow,
  log: BuildLog,
  signal: AbortSignal,
): Promise<string> {
  await setBuild(platform, row.id, { step: "freeze" });
  if (row.request.source_digest) {
    await setBuild(platform, row.id, { source_digest: row.request.source_digest });
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
        {
          details: {
            step: "freeze",
            path: "/workspace",
            pointer: "",
            evidence: ["/workspace holds no files"],
          },
        },
      );
    await setBuild(platform, row.id, { source_digest: frozen.digest });
    return frozen.digest;
  } catch (error) {
    throw freezeProblem(error);
  }
}

/** Only uploaded files can be bad: the host froze all others itself. */
function unpackProblem(error: unknown): unknown {
  if (!(error instanceof HostError) || error.code !== "INVALID" || !error.details["reason"]) return error;
  return new PlatformError(
    "SOURCE_INVALID",
    `The uploaded files cannot be unpacked: ${error.message} Upload an uncompressed tar of the app's folder.`,
    { details: { step: "prepare", pointer: "", evidence: [error.message] }, cause: error },
  );
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
  const { reason, findings } = error.details;
  if (reason === "SECRET_FOUND") return secretProblem(findings as SecretFinding[], error);
  // The host says INVALID for every refusal of the files themselves; the reason tells them apart.
  const code = freezeCodes[String(error.details["reason"])] ?? freezeCodes[error.code];
  if (!code) return error;
  const { path } = error.details;
  const patch: ProblemPatch[] | null =
    code === "SYMLINK_ESCAPES" && typeof path === "string" ? [{ type: "remove", file: path }] : null;
  return new PlatformError(code, error.message, {
    details: {
      ...{ step: "freeze", pointer: "", evidence: [error.message], ...error.details },
      ...(patch ? { patch } : {}),
    },
    cause: error,
  });
}

export async function makeBundle(
  platform: Platform,
  row: BuildRow,
  sourceDigest: string,
  env: Record<string, string>,
  log: BuildLog,
  signal: AbortSignal,
): Promise<void> {
  await setBuild(platform, row.id, { step: "prepare" });
  const box = platform.host.putBox(
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
  await box.catch((error: unknown) => {
    throw unpackProblem(error);
  });
  const guest = guestOf(platform.host, buildKey(row));
  const files = await readAppFiles(guest, "/workspace");
  const plan = planBuild(row.request, files);
  for (const reason of plan.because) log.add("system", reason);
  await setBuild(platform, row.id, { plan: JSON.stringify(plan), step: "install" });
  const oomBefore = (await platform.host.stats(buildKey(row), signal))?.oomKills ?? 0;
  const command = (step: string, text: string, timeoutMs: number) =>
    runStep(platform, row, guest, { step, command: text, timeoutMs, plan, oomBefore }, log, signal);
  await install(platform, row, { plan, tree: files.tree }, command, log, signal);
  await setBuild(platform, row.id, { step: "build" });
  faultPoint("control-plane.build.before-build");
  if (plan.build) await command("build", plan.build, buildTimeoutMs);
  await setBuild(platform, row.id, { step: "collect" });
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
        secrets: knownSecrets(env),
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
  await setBuild(platform, row.id, { bundle_digest: bundled.digest });
}

/** Installs, unless an earlier build of the tenant left what the same lockfile gives. */
async function install(
  platform: Platform,
  row: BuildRow,
  { plan, tree }: { plan: Plan; tree: Tree },
  command: (step: string, text: string, timeoutMs: number) => Promise<void>,
  log: BuildLog,
  signal: AbortSignal,
): Promise<void> {
  if (!plan.install) return;
  const key = plan.root === "/workspace" ? await installKey(plan, tree) : null;
  const cache = key && plan.installs ? { key, folder: plan.installs.folder } : null;
  const isRestored = cache && (await restoreInstall(platform, row, buildKey(row), cache, log, signal));
  // Build scripts may call the package manager by name, also when it has nothing to install.
  const callsTools = /": *"[^"]*\b(pnpm|yarn|bunx?) /.test((await tree.read("package.json")) ?? "");
  if (plan.tools && (!isRestored || callsTools)) await command("install", plan.tools, installTimeoutMs);
  if (isRestored) return;
  await command("install", plan.install, installTimeoutMs);
  if (cache) await keepInstall(platform, row, buildKey(row), cache, plan.root, signal);
}

/** The refusal that a log's diagnosis leads to. */
export const diagnosed = (found: Diagnosis, details: Record<string, unknown>): PlatformError =>
  new PlatformError(found.code, found.message, {
    details: {
      ...details,
      pointer: found.pointer,
      evidence: found.evidence,
      ...(found.patch ? { patch: found.patch } : {}),
      ...found.facts,
    },
    errors: { [found.pointer.split("/")[1] ?? "source"]: [found.message.split(". ")[0]!] },
  });

interface Step {
  readonly step: string;
  readonly command: string;
  readonly timeoutMs: number;
  readonly plan: Plan;
  readonly oomBefore: number;
}

const systemPath = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/** Tools by name, and what a Dockerfile sets; but packages only needed to build are installed in any case. */
function stepEnv({ step, plan }: Step): Record<string, string> {
  const { NODE_ENV, PORT: _port, ...rest } = plan.env;
  const own = [
    `${plan.root}/node_modules/.bin`,
    `${plan.root}/.python/bin`,
    `${toolsFolder}/node_modules/.bin`,
  ];
  return {
    ...rest,
    ...(NODE_ENV !== undefined && step === "build" ? { NODE_ENV } : {}),
    PATH: [...own, systemPath].join(":"),
    ...(plan.packageManager === "pip" || plan.packageManager === "uv" || plan.packageManager === "poetry"
      ? { ...(step === "build" ? { PYTHONPATH: `${plan.root}/.python` } : {}), PYTHONDONTWRITEBYTECODE: "1" }
      : {}),
  };
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
    cwd: step.plan.root,
    env: stepEnv(step),
    timeoutMs: step.timeoutMs,
    maxOutputBytes: 0,
    onStdout: push("stdout"),
    onStderr: push("stderr"),
    signal,
  });
  for (const stream of ["stdout", "stderr"] as const) if (rest[stream]) log.add(stream, rest[stream]);
  if (result.exitCode === 0 && !result.timedOut) return;
  const stats = await platform.host.stats(buildKey(row), signal);
  const whole = await log.tail(200);
  const tail = whole.slice(-40);
  const details = {
    step: step.step,
    command: log.mask(step.command),
    exit_code: result.timedOut ? null : result.exitCode,
    log_tail: tail,
    pointer: "",
    evidence: errorLines(whole),
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
  const diagnose = step.step === "install" ? diagnoseInstall : diagnoseBuild;
  const found = result.timedOut ? null : await diagnose(guest, step.plan, whole);
  if (found) throw diagnosed(found, details);
  if (step.step === "install")
    throw new PlatformError(
      "INSTALL_FAILED",
      `"${details.command}" ended with ${result.exitCode}. Its last lines are in details.log_tail.`,
      { details },
    );
  const code = step.plan.kind === "static" ? "STATIC_BUILD_FAILED" : "BUILD_FAILED";
  throw new PlatformError(
    code,
    `"${details.command}" ended with ${result.exitCode}. Its last lines are in details.log_tail.`,
    {
      details: { ...details, pointer: "/build_command" },
      errors: { build_command: [`ended with ${result.exitCode}`] },
    },
  );
}
