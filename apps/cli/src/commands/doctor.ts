import { spawnSync } from "node:child_process";
import { statfsSync } from "node:fs";
import { freemem } from "node:os";
import type { Command } from "commander";
import { fetch } from "undici";
import { createClient, localhostDispatcher } from "@platform/sdk";
import { findProgram, installLine, missingPackages } from "../../../../scripts/system-packages.mjs";
import { brand } from "../brand.ts";
import type { Context } from "../context.ts";
import { exitCodes, toFailure, CliError } from "../failure.ts";
import { resolveSettings, toBaseUrl } from "../settings.ts";

interface Check {
  readonly name: string;
  /** `no`: a feature is missing. `bad`: nothing works without it. */
  readonly status: "ok" | "no" | "bad";
  readonly seen: string;
  readonly remedy: string | null;
}

const gib = 1024 ** 3;

export function addDoctor(program: Command, context: () => Context): void {
  program
    .command("doctor")
    .description("look at this machine and at the endpoint, and say what is missing")
    .option("--local", "this machine only")
    .action(async (options: { local?: boolean }) => doctor(context(), options.local ?? false));
}

async function doctor(context: Context, isLocal: boolean): Promise<void> {
  const checks = [...machineChecks(context), ...(isLocal ? [] : await endpointChecks(context))];
  const marks = { ok: "✓", no: "–", bad: "✗" };
  context.output.result(
    { checks },
    checks.flatMap((check) => [
      `${marks[check.status]} ${check.name}: ${check.seen}`,
      ...(check.remedy ? [`  do:  ${check.remedy}`] : []),
    ]),
  );
  if (checks.some((check) => check.status === "bad")) context.setExitCode(exitCodes.user);
}

function machineChecks(context: Context): Check[] {
  const path = context.environment["PATH"] ?? "";
  const major = Number(process.versions.node.split(".")[0]);
  const disk = statfsSync(context.repository);
  const freeDisk = (disk.bavail * disk.bsize) / gib;
  const checks: Check[] = [
    check("Node", major >= 24, process.version, "Start it through npm start, which brings Node 24."),
    check(
      "memory",
      freemem() > gib / 2,
      `${(freemem() / gib).toFixed(1)} GiB free`,
      "Free at least 0.5 GiB.",
    ),
    check("disk", freeDisk > 1, `${freeDisk.toFixed(1)} GiB free`, "Free at least 1 GiB."),
    isolationCheck(path),
  ];
  for (const entry of missingPackages(path)) {
    checks.push({
      name: entry.name,
      status: entry.required ? "bad" : "no",
      seen: `not installed; it ${entry.why}`,
      remedy: installLine([entry.name]),
    });
  }
  return checks;
}

function check(name: string, isGood: boolean, seen: string, remedy: string): Check {
  return { name, status: isGood ? "ok" : "bad", seen, remedy: isGood ? null : remedy };
}

/** Makes a real box: whether namespaces are allowed is known only from making one. */
function isolationCheck(path: string): Check {
  const program = findProgram("bwrap", path);
  const name = "isolation";
  if (program === null) return { name, status: "bad", seen: "no bwrap", remedy: installLine(["bubblewrap"]) };
  const args = [
    "--unshare-all",
    "--die-with-parent",
    "--ro-bind",
    "/",
    "/",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "true",
  ];
  const result = spawnSync(program, args, { encoding: "utf8", timeout: 10_000, env: { PATH: path } });
  if (result.status === 0)
    return { name, status: "ok", seen: "namespaces (bubblewrap made a box)", remedy: null };
  const why =
    (result.stderr || result.error?.message || `status ${result.status}`).trim().split("\n")[0] ?? "";
  return {
    name,
    status: "bad",
    seen: why,
    remedy: "Allow user namespaces (sysctl kernel.unprivileged_userns_clone=1), or run as root.",
  };
}

async function endpointChecks(context: Context): Promise<Check[]> {
  let settings;
  try {
    settings = resolveSettings(context.environment, context.flags);
  } catch (error) {
    if (!(error instanceof CliError)) throw error;
    return [{ name: "endpoint", status: "no", seen: error.message, remedy: error.remedy }];
  }
  const checks = [await healthCheck(settings.endpoint)];
  const client = createClient({
    baseUrl: toBaseUrl(settings.endpoint),
    apiKey: settings.apiKey,
    maxRetries: 0,
    timeoutMs: 10_000,
  });
  try {
    const tenant = await client.tenant();
    checks.push({ name: "key", status: "ok", seen: `belongs to ${tenant.name}`, remedy: null });
  } catch (error) {
    const failure = toFailure(error);
    checks.push({
      name: "key",
      status: "bad",
      seen: `${failure.code}: ${failure.message}`,
      remedy: `${brand.command} login`,
    });
  } finally {
    await client.close();
  }
  return checks;
}

async function healthCheck(endpoint: string): Promise<Check> {
  const dispatcher = localhostDispatcher();
  const remedy = "Check that it runs and that the endpoint is right.";
  try {
    const response = await fetch(`${endpoint}/health`, { dispatcher, signal: AbortSignal.timeout(10_000) });
    await response.body?.cancel();
    return check(`endpoint ${endpoint}`, response.status === 200, `answers ${response.status}`, remedy);
  } catch (error) {
    const why = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error);
    return { name: `endpoint ${endpoint}`, status: "bad", seen: why, remedy };
  } finally {
    await dispatcher.destroy();
  }
}
