import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { delimiter, join, resolve } from "node:path";
import { promisify } from "node:util";
import { HostError } from "@platform/host-api";
import { serverEnvironment } from "@platform/postgres";

const run = promisify(execFile);

/** Folder of pg_dump and pg_restore; `npm start` puts them into the toolchain. */
const folderVariable = "POSTGRES_CLIENT_DIR";
const ownFolder = resolve(import.meta.dirname, "../../../../../.toolchain/postgres-client/bin");

export interface ClientPrograms {
  readonly dump: string;
  readonly restore: string;
  readonly major: number;
}

const majorOf = async (program: string): Promise<number | null> => {
  const { stdout } = await run(program, ["--version"], { env: serverEnvironment, timeout: 10_000 }).catch(
    () => ({ stdout: "" }),
  );
  const major = /\) (\d+)/.exec(stdout)?.[1];
  return major === undefined ? null : Number(major);
};

/**
 * The first pg_dump that reads a server of this major version: an older one refuses a newer server.
 *
 * @throws HostError `ENGINE_UNAVAILABLE` with what to install
 */
export async function clientPrograms(major: number): Promise<ClientPrograms> {
  const named = process.env[folderVariable];
  const folders = named ? [named] : [ownFolder, ...(process.env["PATH"] ?? "").split(delimiter)];
  const tooOld: number[] = [];
  for (const folder of folders) {
    const [dump, restore] = [join(folder, "pg_dump"), join(folder, "pg_restore")];
    if (folder === "" || !existsSync(dump) || !existsSync(restore)) continue;
    const found = await majorOf(dump);
    if (found !== null && found >= major) return { dump, restore, major: found };
    if (found !== null) tooOld.push(found);
  }
  const seen = tooOld.length > 0 ? ` Found only ${tooOld.join(", ")}.` : "";
  throw new HostError(
    "ENGINE_UNAVAILABLE",
    503,
    `An upgrade needs pg_dump ${major} or newer on the database's machine.${seen} Run npm start there, or install PostgreSQL's client programs and name their folder in ${folderVariable}.`,
    { reason: "client_programs_missing" },
  );
}
