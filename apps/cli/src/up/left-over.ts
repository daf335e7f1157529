import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { waitFor } from "@platform/daemon";
import { identify, isAlive, type ProcessIdentity } from "@platform/postgres";

const endMs = 10_000;
const suffix = ".process.json";

/** Writes down which process runs a program, so that a later supervisor finds it. */
export function noteProcess(folder: string, program: string, pid: number): void {
  const identity = identify(pid);
  if (identity) writeFileSync(join(folder, `${program}${suffix}`), JSON.stringify(identity), { mode: 0o600 });
}

/**
 * Ends the programs of a supervisor that was killed: they stop by themselves, but two of a kind must
 * never share a data folder, not even for a moment, and their ports are wanted. They are made to be
 * killed at any point. Call only while holding the folder's lock.
 *
 * @throws Error naming the process that cannot be ended
 */
export async function endLeftOvers(folder: string): Promise<void> {
  for (const name of readdirSync(folder)) {
    if (!name.endsWith(suffix)) continue;
    const path = join(folder, name);
    const identity = readIdentity(path);
    if (identity && isAlive(identity)) {
      kill(identity.pid);
      await waitFor(
        `process ${identity.pid} of an earlier start to end`,
        () => !isAlive(identity),
        endMs,
        10,
      );
    }
    rmSync(path, { force: true });
  }
}

function readIdentity(path: string): ProcessIdentity | null {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as ProcessIdentity;
  } catch {
    // Cut off while it was written: its program was not started yet or stops by itself.
    return null;
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
