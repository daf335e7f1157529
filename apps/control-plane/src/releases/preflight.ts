import { PlatformError, type ProblemPatch } from "@platform/contract";
import type { GuestClient, ProbeResult } from "@platform/guest-protocol";
import type { OomReport } from "@platform/host-api";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";
import { deploymentEnvironment } from "./environment.ts";
import type { Plan } from "./detect/index.ts";
import { diagnoseStart, errorLines } from "./diagnosis.ts";
import { onlyInSandbox } from "./only-in-sandbox.ts";
import { diagnosed } from "./run-step.ts";
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
  /** The sandbox it came from; null for uploaded files. */
  readonly sandboxId: string | null;
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
        details: {
          step: "preflight",
          missing,
          pointer: `/env/${missing[0]}`,
          evidence: missing.map((name) => `the manifest requires ${name}`),
          patch: [
            {
              type: "request",
              operations: missing.map((name) => ({ op: "add", path: `/env/${name}`, value: "" })),
              needs_value: true,
            },
          ],
          build_id: candidate.buildId,
        },
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
  const stats = await platform.host.oom(candidate.key, signal);
  const refused =
    (await sandboxOnly(platform, guest, candidate, probe, lines, values, stats)) ??
    (await refusal(guest, candidate, probe, lines, stats));
  await platform.host.deleteBox(candidate.key, signal);
  throw refused;
}

type Stats = OomReport | null;

/** Looked for first: its log says "not found" or "refused", and means the sandbox. */
async function sandboxOnly(
  platform: Platform,
  guest: GuestClient,
  candidate: Candidate,
  probe: ProbeResult,
  lines: string[],
  values: Readonly<Record<string, string>>,
  stats: Stats,
): Promise<PlatformError | null> {
  if ((stats?.oomKills ?? 0) > 0 || probe.reason === "bound_to_loopback") return null;
  const details = detailsOf(candidate, probe, lines);
  // What the log names exactly comes before what can only be concluded.
  const named = probe.reason === "process_exited" ? await diagnoseStart(guest, candidate.plan, lines) : null;
  const found = await onlyInSandbox(platform, candidate.sandboxId, guest, lines, values);
  if (named && (found === null || found.code === "REQUIRED_ENV_MISSING")) return diagnosed(named, details);
  return found ? diagnosed(found, details) : null;
}

async function refusal(
  guest: GuestClient,
  candidate: Candidate,
  probe: ProbeResult,
  lines: string[],
  stats: Stats,
): Promise<PlatformError> {
  const { plan } = candidate;
  const details = detailsOf(candidate, probe, lines);
  if ((stats?.oomKills ?? 0) > 0) {
    return new PlatformError(
      "PREFLIGHT_OUT_OF_MEMORY",
      `The release ran out of memory at start.${stats?.processes.length ? ` The kernel ended ${stats.processes.join(", ")}.` : ""} Lower what it loads at start.`,
      {
        details: {
          ...details,
          limit_bytes: stats?.memoryLimitBytes,
          peak_bytes: stats?.memoryPeakBytes,
          process: stats?.processes.at(-1) ?? null,
        },
      },
    );
  }
  switch (probe.reason) {
    case "process_exited":
      return new PlatformError(
        "PREFLIGHT_EXITED",
        `"${plan.start}" exits at start, away from the sandbox. Its last lines are in details.log_tail.`,
        { details },
      );
    case "bound_to_loopback":
      return boundToLoopback(guest, plan, details);
    case "no_http_answer":
    case "http_error":
      return new PlatformError(
        "PREFLIGHT_UNHEALTHY",
        `${plan.healthCheckPath} answers ${probe.httpStatus ?? "nothing"}. It must answer with a status under 500. The app's last lines are in details.log_tail.`,
        { details: { ...details, pointer: "/health_check_path" } },
      );
    case "not_listening":
    case null:
      return notListening(guest, plan, details);
  }
}

function detailsOf(candidate: Candidate, probe: ProbeResult, lines: string[]) {
  const { plan } = candidate;
  return {
    step: "preflight",
    reason: probe.reason,
    port: plan.port,
    health_check_path: plan.healthCheckPath,
    http_status: probe.httpStatus,
    start_command: plan.start,
    log_tail: lines,
    seen: probe.evidence,
    pointer: "",
    evidence:
      lines.length > 0
        ? errorLines(lines)
        : [
            `the app wrote nothing; ${plan.healthCheckPath} on port ${plan.port}: ${probe.httpStatus ?? probe.reason}`,
          ],
    build_id: candidate.buildId,
  };
}

const sources =
  "--include=*.js --include=*.mjs --include=*.cjs --include=*.ts --include=*.mts --include=*.py --exclude-dir=node_modules --exclude-dir=.python --exclude-dir=.git";

/** The line that names the loopback address, so that the repair can be said exactly. */
async function boundToLoopback(
  guest: GuestClient,
  plan: Plan,
  details: Record<string, unknown>,
): Promise<PlatformError> {
  const seen = await guest.exec(
    `grep -rnE ${sources} "(127\\.0\\.0\\.1|localhost|::1)" . | grep -iE "listen|host|bind|serve|run\\(" | head -5`,
    { cwd: "/workspace", timeoutMs: 20_000 },
  );
  const places = seen.stdout.split("\n").filter((line) => line !== "");
  const [, file, line, text] = /^\.\/([^:]+):(\d+):(.*)$/.exec(places[0] ?? "") ?? [];
  const address = /127\.0\.0\.1|localhost|::1/.exec(text ?? "")?.[0];
  const inCommand = /127\.0\.0\.1|localhost/.exec(plan.start ?? "")?.[0];
  const patch: ProblemPatch[] | undefined = address
    ? [{ type: "edit", file: file!, line: Number(line), find: address, replace: "0.0.0.0" }]
    : inCommand
      ? [
          {
            type: "request",
            operations: [
              { op: "add", path: "/run_command", value: plan.start!.replaceAll(inCommand, "0.0.0.0") },
            ],
          },
        ]
      : undefined;
  return new PlatformError(
    "PREFLIGHT_BOUND_TO_LOOPBACK",
    `The app listens on 127.0.0.1:${plan.port} only. Bind it to 0.0.0.0${address ? ` (${file}:${line})` : ""}; HOST=0.0.0.0 is set for it.`,
    {
      details: {
        ...details,
        evidence:
          places.length > 0
            ? places.map((place) => place.slice(2, 300))
            : [`listens on 127.0.0.1:${plan.port}`],
        ...(patch ? { patch } : {}),
      },
    },
  );
}

async function notListening(
  guest: GuestClient,
  plan: Plan,
  details: Record<string, unknown>,
): Promise<PlatformError> {
  const open = await guest.ports().catch(() => []);
  const other = open.find(
    ({ port, loopbackOnly, process }) => !loopbackOnly && port !== plan.port && process !== "agent",
  );
  const found = `Nothing listens on port ${plan.port} ${startTimeoutMs / 1000} s after the start.`;
  return new PlatformError(
    "PREFLIGHT_NOT_LISTENING",
    other
      ? `${found} The app listens on ${other.port}: send port ${other.port}, or listen on PORT (it is set to ${plan.port}).`
      : `${found} Listen on PORT (it is set to ${plan.port}), or say which port.`,
    {
      details: {
        ...details,
        pointer: "/port",
        evidence: [
          `nothing listens on port ${plan.port}`,
          ...open.map((one) => `${one.process ?? "a process"} listens on ${one.address}:${one.port}`),
        ],
        ...(other
          ? { patch: [{ type: "request", operations: [{ op: "add", path: "/port", value: other.port }] }] }
          : {}),
      },
      errors: { port: [`nothing listens on ${plan.port}`] },
    },
  );
}
