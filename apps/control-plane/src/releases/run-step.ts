import { PlatformError } from "@platform/contract";
import type { BoxSpec, OomReport } from "@platform/host-api";
import type { GuestClient } from "@platform/guest-protocol";
import type { Platform } from "../platform.ts";
import { toolsFolder, type Plan } from "./detect/index.ts";
import { diagnoseBuild, diagnoseInstall, errorLines, type Diagnosis } from "./diagnosis.ts";
import { insteadOf } from "./lockfile-gaps.ts";
import { MaskedLines } from "./masking.ts";
import type { BuildLog, BuildRow } from "./store.ts";

export const buildLimits = (platform: Platform): BoxSpec["limits"] => ({
  memoryBytes: platform.settings.buildMemoryBytes ?? 8 * 1024 ** 3,
  cpuMillis: 2000,
  maxProcesses: 4096,
  diskBytes: 20 * 1024 ** 3,
});

export const buildKey = (row: BuildRow) => `bd-${row.id}`;

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

export interface Step {
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

const mib = (bytes: number) => `${Math.round(bytes / 1024 ** 2)} MiB`;

function outOfMemory(
  platform: Platform,
  step: Step,
  { memoryLimitBytes: limit, memoryPeakBytes: peak, processes, oomKills }: OomReport,
  details: Record<string, unknown>,
): PlatformError {
  const who = processes.length > 0 ? ` The kernel ended ${processes.join(", ")}.` : "";
  const evidence = [
    `memory limit ${mib(limit ?? buildLimits(platform).memoryBytes)}, peak ${peak === null ? "unknown" : mib(peak)}, ${(oomKills ?? 0) - step.oomBefore} process(es) ended by the kernel`,
    ...processes.map((name) => `ended: ${name}`),
  ];
  return new PlatformError(
    "BUILD_OUT_OF_MEMORY",
    `The ${step.step} step ran out of memory (limit ${mib(limit ?? buildLimits(platform).memoryBytes)}).${who} Build with less parallelism, or lower the memory it needs.`,
    {
      details: {
        ...details,
        evidence,
        limit_bytes: limit,
        peak_bytes: peak,
        process: processes.at(-1) ?? null,
      },
    },
  );
}

export async function runStep(
  platform: Platform,
  row: BuildRow,
  guest: GuestClient,
  step: Step,
  log: BuildLog,
  signal: AbortSignal,
): Promise<void> {
  log.add("system", `$ ${step.command}`);
  const lines = {
    stdout: new MaskedLines(log.masking, (line) => log.add("stdout", line)),
    stderr: new MaskedLines(log.masking, (line) => log.add("stderr", line)),
  };
  const result = await guest.exec(step.command, {
    cwd: step.plan.root,
    env: stepEnv(step),
    timeoutMs: step.timeoutMs,
    maxOutputBytes: 0,
    onStdout: (chunk) => lines.stdout.push(chunk),
    onStderr: (chunk) => lines.stderr.push(chunk),
    signal,
  });
  for (const stream of [lines.stdout, lines.stderr]) stream.end();
  if (result.exitCode === 0 && !result.timedOut) return;
  const oom = await platform.host.oom(buildKey(row), signal);
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
  if ((oom?.oomKills ?? 0) > step.oomBefore) throw outOfMemory(platform, step, oom!, details);
  if (result.timedOut)
    throw new PlatformError(
      "BUILD_TIMEOUT",
      `The ${step.step} step did not end within ${step.timeoutMs < 120_000 ? `${step.timeoutMs / 1000} seconds` : `${step.timeoutMs / 60_000} minutes`}. Its last lines are in details.log_tail.`,
      { details },
    );
  const instead = step.step === "install" ? insteadOf(step.command, whole) : null;
  if (instead) {
    log.add("system", instead.because);
    return runStep(platform, row, guest, { ...step, command: instead.command }, log, signal);
  }
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
