import { createHash } from "node:crypto";
import { largestChunk, type SecretFinding } from "@platform/bundle";
import { faultPoint } from "@platform/daemon";
import { PlatformError, type ProblemCode, type ProblemPatch } from "@platform/contract";
import { HostError } from "@platform/host-api";
import type { GuestClient } from "@platform/guest-protocol";
import { query } from "@platform/postgres";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";
import { findStaticOutput, readAppFiles, type StaticOutput } from "./files.ts";
import { planBuild, type Plan, type Tree } from "./detect/index.ts";
import { installKey, keepInstall, restoreInstall } from "./install-cache.ts";
import { recordMigrations } from "./migrations.ts";
import { buildKey, buildLimits, runStep } from "./run-step.ts";
import { listInstalled, renderSbom } from "./sbom/index.ts";
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
      limits: buildLimits(platform),
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
  await recordMigrations(platform, row, guest, plan.root, log);
  await setBuild(platform, row.id, { plan: JSON.stringify(plan), step: "install" });
  const oomBefore = (await platform.host.oom(buildKey(row), signal))?.oomKills ?? 0;
  const command = (step: string, text: string, timeoutMs: number) =>
    runStep(platform, row, guest, { step, command: text, timeoutMs, plan, oomBefore }, log, signal);
  await install(platform, row, { plan, tree: files.tree }, command, log, signal);
  await setBuild(platform, row.id, { step: "build" });
  faultPoint("control-plane.build.before-build");
  if (plan.build) await command("build", plan.build, platform.settings.buildTimeoutMs ?? buildTimeoutMs);
  await setBuild(platform, row.id, { step: "collect" });
  const sbom = await keepSbom(platform, guest, plan, log, signal);
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
        source: sourceDigest,
        sbom,
      },
      signal,
    )
    .catch((error: unknown) => {
      throw freezeProblem(error);
    });
  log.add("system", `bundle ${bundled.digest}, ${bundled.files} files, ${bundled.sizeBytes} bytes`);
  await platform.pool.query(
    "update releases set size_bytes = $2, metadata = metadata || $3::jsonb where id = $1",
    [
      row.release_id,
      bundled.sizeBytes,
      { spa_fallback: output?.spa ?? false, files: bundled.files, sbom_digest: sbom },
    ],
  );
  await setBuild(platform, row.id, { bundle_digest: bundled.digest });
}

/** @returns digest of the bill of materials, which the bundle then names; null where it cannot be made */
async function keepSbom(
  platform: Platform,
  guest: GuestClient,
  plan: Plan,
  log: BuildLog,
  signal: AbortSignal,
): Promise<string | null> {
  const installed = await listInstalled(guest, plan.root);
  if (!installed) {
    log.add("system", "bill of materials: the installed packages could not be listed");
    return null;
  }
  const bytes = Buffer.from(renderSbom(installed));
  const digestOf = (part: Buffer) => `sha256:${createHash("sha256").update(part).digest("hex")}`;
  const parts: string[] = [];
  for (let at = 0; at < bytes.length; at += largestChunk) {
    const part = bytes.subarray(at, at + largestChunk);
    parts.push(digestOf(part));
    await platform.host.putChunk(parts.at(-1)!, part, signal);
  }
  const { digest } = await platform.host.assembleChunks(parts, digestOf(bytes), signal);
  await platform.host.removeChunks(parts, signal);
  log.add("system", `bill of materials ${digest}, ${installed.packages.length} packages`);
  return digest;
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
