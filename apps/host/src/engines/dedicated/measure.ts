import { lstatSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { identify } from "@platform/postgres";

/** A file or process may vanish between listing and reading; that is no error while measuring. */
function orNull<T>(read: () => T): T | null {
  try {
    return read();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") return null;
    throw error;
  }
}

/** @returns bytes allocated on disk for everything below `folder` */
export function diskUsage(folder: string): number {
  let bytes = 0;
  for (const entry of orNull(() => readdirSync(folder, { withFileTypes: true })) ?? []) {
    const path = join(folder, entry.name);
    bytes += entry.isDirectory() ? diskUsage(path) : (orNull(() => lstatSync(path))?.blocks ?? 0) * 512;
  }
  return bytes;
}

const established = "01";

/** Connections that are open to a port of 127.0.0.1, by the kernel's own list. */
export function connectionsTo(port: number): number {
  const local = `0100007F:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  const lines = readFileSync("/proc/net/tcp", "utf8").split("\n");
  return lines.filter((line) => {
    const [, from, , state] = line.trim().split(/\s+/);
    return from === local && state === established;
  }).length;
}

/** A process and all its descendants. */
export function processTree(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const pid of processIds()) {
    const stat = orNull(() => readFileSync(`/proc/${pid}/stat`, "utf8"));
    const parent = Number(stat?.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
    children.set(parent, [...(children.get(parent) ?? []), pid]);
  }
  const tree = [root];
  for (const pid of tree) tree.push(...(children.get(pid) ?? []));
  return tree;
}

/** Processes whose effective user is `uid`. */
export function processesOfUser(uid: number): number[] {
  return processIds().filter(
    // A zombie holds nothing any more and may wait for its parent for ever.
    (pid) => orNull(() => lstatSync(`/proc/${pid}`))?.uid === uid && identify(pid) !== null,
  );
}

/** Kills what runs as `uid`. @returns whether nothing did any more */
export function endProcesses(uid: number): boolean {
  const pids = processesOfUser(uid);
  for (const pid of pids) orNull(() => process.kill(pid, "SIGKILL"));
  return pids.length === 0;
}

function processIds(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** Sum of the processes' proportional shares (PSS), where shared pages count once in all. */
export function memoryOf(pids: readonly number[]): number {
  let kib = 0;
  for (const pid of pids) {
    const text = orNull(() => readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"));
    kib += Number(/^Pss:\s+(\d+) kB/m.exec(text ?? "")?.[1] ?? 0);
  }
  return kib * 1024;
}
