import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { chmod, open, readdir, rm } from "node:fs/promises";
import { join } from "node:path";

/** Start of a process in clock ticks since boot: with the pid it names one process, never two. */
function startOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The program's name may hold spaces and parentheses, so fields count from the last one.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
  } catch {
    return null; // No such process, or no /proc on this system.
  }
}

const ownStart = startOf(process.pid) ?? "0";

/** A name that tells which process owns it, so that what a killed process left can be told apart. */
export const temporaryName = (prefix = ""): string =>
  `${prefix}tmp-${process.pid}-${ownStart}-${randomBytes(8).toString("hex")}`;

function isAbandoned(name: string): boolean {
  const match = /tmp-(\d+)-(\d+)-[0-9a-f]{16}$/.exec(name);
  if (!match) return false;
  if (match[2] !== "0") return startOf(Number(match[1])) !== match[2];
  try {
    process.kill(Number(match[1]), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}

/** Removes what processes that are gone left in `folder` under names with this prefix. */
export async function removeAbandoned(folder: string, prefix = ""): Promise<void> {
  for (const name of await readdir(folder))
    if (name.startsWith(`${prefix}tmp-`) && isAbandoned(name)) await removeTree(join(folder, name));
}

/** Removes a tree that may hold read-only folders. */
export async function removeTree(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "EACCES" && code !== "EPERM") throw error;
    await makeWritable(path);
    await rm(path, { recursive: true, force: true });
  }
}

async function makeWritable(folder: string): Promise<void> {
  await chmod(folder, 0o700);
  for (const entry of await readdir(folder, { withFileTypes: true }))
    if (entry.isDirectory()) await makeWritable(join(folder, entry.name));
}

/** Makes renames and links in this folder survive a power cut. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
