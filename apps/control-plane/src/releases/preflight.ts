import { PlatformError } from "@platform/contract";
import type { ProbeResult } from "@platform/guest-protocol";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";
import { deploymentEnvironment } from "./environment.ts";
import type { Plan } from "./detect/index.ts";
import { appService, runSpec } from "./run-spec.ts";
import type { BuildLog } from "./store.ts";

const startTimeoutMs = 60_000;

interface Candidate {
  readonly buildId: string;
  readonly deploymentId: string;
  readonly key: string;
  readonly digest: string;
  readonly plan: Plan;
  readonly log: BuildLog;
}

/**
 * Boots the bundle away from the sandbox it came from. What only worked because of the sandbox's other
 * files or variables is refused here, not in production. The caller sees to it that
 * no box of an earlier try is left, and removes this one after a success.
 */
export async function preflight(
  platform: Platform,
  candidate: Candidate,
  signal: AbortSignal,
): Promise<void> {
  const { plan, log } = candidate;
  const { values, linked } = await deploymentEnvironment(platform, candidate.deploymentId);
  const missing = plan.requiredEnv.filter((name) => values[name] === undefined);
  if (missing.length > 0) {
    throw new PlatformError(
      "REQUIRED_ENV_MISSING",
      `The app manifest requires ${missing.join(", ")}. Set ${missing.length === 1 ? "it" : "them"} with POST /deployments/${candidate.deploymentId}/env and publish again.`,
      {
        details: { step: "preflight", missing, build_id: candidate.buildId },
        errors: { env: missing.map((name) => `${name} is missing`) },
      },
    );
  }
  await platform.host.putBox(
    candidate.key,
    runSpec(
      platform,
      { digest: candidate.digest, start: plan.start!, port: plan.port!, hostname: "preflight" },
      values,
      linked,
    ),
    signal,
  );
  const guest = guestOf(platform.host, candidate.key);
  const probe = await guest.probe(
    plan.port!,
    { path: plan.healthCheckPath ?? "/", timeoutMs: startTimeoutMs, service: appService },
    signal,
  );
  const lines = (await guest.services.logs(appService, 40))
    .filter((line) => line.stream !== "agent")
    .map((line) => log.mask(line.line));
  for (const line of lines) log.add("stdout", `[app] ${line}`);
  if (probe.ok) {
    log.add("system", `preflight: port ${plan.port} answers ${probe.httpStatus} on ${plan.healthCheckPath}`);
    return;
  }
  const stats = await platform.host.stats(candidate.key, signal);
  await platform.host.deleteBox(candidate.key, signal);
  throw refusal(candidate, probe, lines, stats);
}

function refusal(
  candidate: Candidate,
  probe: ProbeResult,
  lines: string[],
  stats: { oomKills: number | null; memoryLimitBytes: number | null; memoryPeakBytes: number | null } | null,
): PlatformError {
  const { plan } = candidate;
  const details = {
    step: "preflight",
    reason: probe.reason,
    port: plan.port,
    health_check_path: plan.healthCheckPath,
    http_status: probe.httpStatus,
    start_command: plan.start,
    log_tail: lines,
    evidence: probe.evidence,
    build_id: candidate.buildId,
  };
  if ((stats?.oomKills ?? 0) > 0) {
    return new PlatformError(
      "PREFLIGHT_OUT_OF_MEMORY",
      "The release ran out of memory at start. Lower what it loads at start.",
      { details: { ...details, limit_bytes: stats?.memoryLimitBytes, peak_bytes: stats?.memoryPeakBytes } },
    );
  }
  const missing = lines
    .map((line) =>
      /Cannot find (?:module|package) '([^']+)'|ModuleNotFoundError: No module named '([^']+)'/.exec(line),
    )
    .find((match) => match !== null);
  switch (probe.reason) {
    case "process_exited": {
      const name = missing?.[1] ?? missing?.[2];
      const why = name
        ? ` It needs "${name}", which is not in the release: add it to the dependencies.`
        : " Its last lines are in details.log_tail.";
      return new PlatformError(
        "PREFLIGHT_EXITED",
        `"${plan.start}" exits at start, away from the sandbox.${why}`,
        { details: { ...details, ...(name ? { missing: name } : {}) } },
      );
    }
    case "bound_to_loopback":
      return new PlatformError(
        "PREFLIGHT_BOUND_TO_LOOPBACK",
        `The app listens on 127.0.0.1:${plan.port} only. Bind it to 0.0.0.0; HOST=0.0.0.0 is set for it.`,
        { details },
      );
    case "no_http_answer":
    case "http_error":
      return new PlatformError(
        "PREFLIGHT_UNHEALTHY",
        `${plan.healthCheckPath} answers ${probe.httpStatus ?? "nothing"}. It must answer with a status under 500. The app's last lines are in details.log_tail.`,
        { details },
      );
    case "not_listening":
    case null:
      return new PlatformError(
        "PREFLIGHT_NOT_LISTENING",
        `Nothing listens on port ${plan.port} ${startTimeoutMs / 1000} s after the start. Listen on PORT (it is set to ${plan.port}), or say which port.`,
        { details, errors: { port: [`nothing listens on ${plan.port}`] } },
      );
  }
}
