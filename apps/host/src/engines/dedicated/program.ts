import { execFile } from "node:child_process";
import { accessSync, constants, statSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { serverEnvironment } from "@platform/postgres";

const run = promisify(execFile);
const folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/** A server program of the machine's own packages; looked for anew each time, as it may be installed meanwhile. */
export function findProgram(names: readonly string[]): string | null {
  for (const name of names) {
    for (const folder of folders) {
      try {
        accessSync(join(folder, name), constants.X_OK);
        return join(folder, name);
      } catch {
        // Not in this folder; the next one decides.
      }
    }
  }
  return null;
}

const said = new Map<string, string>();

/** First dotted number that a program says about itself. */
export async function versionSaid(program: string, args: readonly string[], argv0?: string): Promise<string> {
  // Asked once for each file as it lies there: an upgrade makes it another.
  const { mtimeMs, size } = statSync(program);
  const name = `${program} ${mtimeMs} ${size}`;
  const known = said.get(name);
  if (known) return known;
  const options = { env: serverEnvironment, cwd: "/", timeout: 20_000, ...(argv0 ? { argv0 } : {}) };
  const { stdout } = await run(program, [...args], options);
  const version = /(\d+\.\d+\.\d+)/.exec(stdout)?.[1];
  if (!version) throw new Error(`${program} does not tell its version.`);
  said.set(name, version);
  return version;
}
