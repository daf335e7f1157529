import { HostError } from "@platform/host-api";
import type { EngineReport, ServerCommand } from "../dedicated/kind.ts";
import { findProgram, versionSaid } from "../dedicated/program.ts";

const installLine = "apt-get install -y --no-install-recommends redis-tools";
export const major = "7";

type Programs = Pick<ServerCommand, "program"> & { readonly argv0: string; readonly version: string };

/**
 * Debian's server is a link to a program in the package of tools, which is a server when it is called by
 * that name. So the tools are enough, and no package that starts a service of its own is needed.
 */
async function find(): Promise<Programs | string> {
  const program = findProgram(["redis-server", "redis-check-rdb"]);
  if (!program) return `Redis is not installed on this machine. Run: ${installLine}`;
  const argv0 = "redis-server";
  const version = await versionSaid(program, ["--version"], argv0);
  if (version.startsWith(`${major}.`)) return { program, argv0, version };
  return `Redis ${version} is installed; ${major} is needed. Run: ${installLine}`;
}

export async function report(): Promise<EngineReport> {
  const found = await find().catch((error: unknown) => `Redis does not run: ${String(error)}`);
  if (typeof found === "string") return { usable: false, versions: [], why: found };
  return { usable: true, versions: [major], why: null };
}

/** @throws HostError `INVALID` for a version we do not have, `ENGINE_UNAVAILABLE` with the install line */
export async function programsOf(version: string): Promise<Programs> {
  if (version.split(".")[0] !== major) {
    const message = `Redis ${version} is not available. Served is Redis ${major}.`;
    throw new HostError("INVALID", 422, message, { reason: "version_unavailable", available: [major] });
  }
  const found = await find();
  if (typeof found !== "string") return found;
  throw new HostError("ENGINE_UNAVAILABLE", 503, found, { reason: "engine_missing", install: installLine });
}
