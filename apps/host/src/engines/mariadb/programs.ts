import { HostError } from "@platform/host-api";
import { findProgram, versionSaid } from "../dedicated/program.ts";
import type { EngineReport } from "../dedicated/kind.ts";

const installLine = "apt-get install -y --no-install-recommends mariadb-server-core";
/** The release line that Debian ships; a server of another line is not offered. */
export const line = "10.11";

export interface Programs {
  readonly server: string;
  readonly installer: string;
  readonly version: string;
}

async function find(): Promise<Programs | string> {
  const server = findProgram(["mariadbd"]);
  const installer = findProgram(["mariadb-install-db"]);
  if (!server || !installer) return `MariaDB is not installed on this machine. Run: ${installLine}`;
  const version = await versionSaid(server, ["--no-defaults", "--version"]);
  if (version.startsWith(`${line}.`)) return { server, installer, version };
  return `MariaDB ${version} is installed; ${line} is needed. Run: ${installLine}`;
}

export async function report(): Promise<EngineReport> {
  const found = await find().catch((error: unknown) => `MariaDB does not run: ${String(error)}`);
  if (typeof found === "string") return { usable: false, versions: [], why: found };
  return { usable: true, versions: [line], why: null };
}

/** @throws HostError `INVALID` for a version we do not have, `ENGINE_UNAVAILABLE` with the install line */
export async function programsOf(version: string): Promise<Programs> {
  if (version !== line) {
    const message = `MySQL ${version} is not available. Served is MySQL-compatible MariaDB ${line}.`;
    throw new HostError("INVALID", 422, message, { reason: "version_unavailable", available: [line] });
  }
  const found = await find();
  if (typeof found !== "string") return found;
  throw new HostError("ENGINE_UNAVAILABLE", 503, found, { reason: "engine_missing", install: installLine });
}
