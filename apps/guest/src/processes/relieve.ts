import { readdirSync, readFileSync } from "node:fs";

/** A program that was ended so that the others go on. */
export interface Relieved {
  readonly pid: number;
  readonly name: string;
  readonly residentBytes: number;
}

/**
 * Ends the box's program that holds the most memory, the agent's own and the box's first process excepted.
 * Read at once and without another process: the box has no memory left.
 *
 * @returns `null` where there is no other program
 */
export function endLargestProgram(): Relieved | null {
  let largest: Relieved | null = null;
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === 1 || pid === process.pid) continue;
    const found = look(pid);
    if (found && found.residentBytes > (largest?.residentBytes ?? 0)) largest = found;
  }
  if (!largest) return null;
  try {
    process.kill(largest.pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error; // It has just ended by itself.
  }
  return largest;
}

function look(pid: number): Relieved | null {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "latin1");
    const resident = /^VmRSS:\s+(\d+) kB/m.exec(status)?.[1];
    const name = /^Name:\s+(.*)$/m.exec(status)?.[1];
    return resident === undefined ? null : { pid, name: name ?? "", residentBytes: Number(resident) * 1024 };
  } catch {
    return null; // It ended meanwhile.
  }
}
