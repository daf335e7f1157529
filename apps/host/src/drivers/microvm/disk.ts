import { chown, mkdir, open, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { HostError } from "@platform/host-api";
import type { BoxFolders } from "../driver.ts";
import { runJailed } from "./jail.ts";

const run = promisify(execFile);
const mib = 1024 * 1024;

/** The file systems own tables, so that the box gets what its limit says. */
const tablesShare = 1.05;
const tablesBytes = 32 * mib;

export const diskPath = (folders: BoxFolders): string => join(folders.root, "disk.img");

/**
 * Makes the box's disk out of its workspace and home folders and empties those: from now on only the
 * box's own kernel reads and writes them. No mount and no right of root is needed.
 */
export async function makeDisk(folders: BoxFolders, diskBytes: number): Promise<void> {
  const path = diskPath(folders);
  await rm(path, { force: true });
  const file = await open(path, "wx", 0o600);
  try {
    await file.truncate(Math.ceil((diskBytes * tablesShare + tablesBytes) / mib) * mib);
  } finally {
    await file.close();
  }
  if (folders.owner) await chown(path, folders.owner.uid, folders.owner.gid);
  await runJailed({
    owner: folders.owner,
    mounts: [
      ...["--bind", path, "/disk.img", "--tmpfs", "/content"],
      ...["--ro-bind", folders.workspace, "/content/workspace", "--ro-bind", folders.home, "/content/home"],
    ],
    command: [
      ...["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-i", "8192", "-d", "/content"],
      ...["-E", "root_owner=0:0,lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard", "/disk.img"],
    ],
  });
  for (const folder of [folders.workspace, folders.home]) {
    for (const name of await readdir(folder)) await rm(join(folder, name), { recursive: true, force: true });
  }
}

/**
 * Copies the box's files out of its disk, which must be at rest. The disk is what a guest's kernel
 * wrote, so it is read by a program without rights and never mounted on this machine.
 *
 * @param into folder of the host's that others cannot enter; `workspace` and `home` appear in it
 * @throws HostError `DISK_FULL`; Error when the disk cannot be read whole
 */
export async function copyOut(folders: BoxFolders, into: string): Promise<void> {
  const { owner } = folders;
  const copies = join(into, "copies");
  await mkdir(copies, { mode: 0o700 });
  if (owner) await chown(copies, owner.uid, owner.gid);
  for (const name of ["workspace", "home"]) {
    const said = await runJailed({
      owner,
      mounts: ["--ro-bind", diskPath(folders), "/disk.img", "--bind", copies, "/copies"],
      command: ["debugfs", "-R", `rdump /${name} /copies`, "/disk.img"],
    });
    // It ends with 0 whatever happened; its first line is its own version.
    const complaint = said.split("\n").find((line) => line.trim() !== "" && !line.startsWith("debugfs "));
    if (complaint?.includes("No space left")) {
      throw new HostError("DISK_FULL", 507, "The machine's disk is full. Free space or use another host.");
    }
    if (complaint !== undefined)
      throw new Error(`The disk of the box cannot be read: ${complaint.slice(0, 500)}`);
    await stat(join(copies, name));
  }
}

/** A copy of a disk at rest that takes no more room than what is written on it. */
export async function copyDisk(from: string, to: string): Promise<void> {
  try {
    await run("cp", ["--sparse=always", "--reflink=auto", "--", from, to]);
  } catch (error) {
    if (!/No space left/.test(String((error as { stderr?: unknown }).stderr))) throw error;
    const message = "The machine's disk is full. Free space or move boxes to another host.";
    throw new HostError("DISK_FULL", 507, message, {}, { cause: error });
  }
}
