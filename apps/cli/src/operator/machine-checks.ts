import { spawnSync } from "node:child_process";
import { statfsSync } from "node:fs";
import { freemem } from "node:os";
import { findProgram, installLine, missingPackages } from "../../../../scripts/system-packages.mjs";
import type { Context } from "../context.ts";
import { check, type Check } from "./check.ts";

const gib = 1024 ** 3;

/** Whether this machine can run the platform: of no use to who only uses one. */
export function machineChecks(context: Context): Check[] {
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
