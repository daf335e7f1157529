import { readFileSync, readdirSync } from "node:fs";
import { basename } from "node:path";
import { identify, type ProcessIdentity } from "@platform/postgres";

/**
 * The server of a folder, found by its command line, which names the folder: a pid file may be stale,
 * or not be written yet. Of a server and its children it is the one whose parent is none of them.
 */
export function findServer(programs: readonly string[], argument: string): ProcessIdentity | null {
  const found = new Map<number, number>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const words = read(`/proc/${name}/cmdline`)?.split("\0") ?? [];
    if (!programs.includes(basename(words[0] ?? "")) || !words.includes(argument)) continue;
    const stat = read(`/proc/${name}/stat`);
    if (stat === null) continue;
    found.set(Number(name), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
  }
  for (const [pid, parent] of found) if (!found.has(parent)) return identify(pid);
  return null;
}

function read(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") return null;
    throw error;
  }
}
