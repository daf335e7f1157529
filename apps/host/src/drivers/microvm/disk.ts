import { chmod, chown, mkdir, open, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { HostError } from "@platform/host-api";
import type { BoxFolders } from "../driver.ts";
import { insideUid } from "../linux/rootfs.ts";
import { runJailed } from "./jail.ts";

const run = promisify(execFile);
const mib = 1024 * 1024;

/** Uid of the box's files on its disk; the guest shows them to the box as its user's. */
export const ownerOnDisk = (folders: BoxFolders): number =>
  folders.disk && folders.owner ? folders.owner.uid : insideUid;

/** Folders at the top of a box's disk. */
const contents = [
  ["workspace", "workspace"],
  ["home", "home"],
  ["logs", "serviceLogs"],
] as const;

/** The file system's own tables, so that the box gets what its limit says. */
const tablesShare = 1.05;
const tablesBytes = 32 * mib;

export const diskPath = (folders: BoxFolders): string =>
  folders.disk?.image ?? join(folders.root, "disk.img");

/**
 * Makes the box's disk out of its folders and empties those, where the host has made none: from now on
 * only the box's own kernel reads and writes them. No mount and no right of root is needed.
 */
export async function makeDisk(folders: BoxFolders, diskBytes: number): Promise<void> {
  const path = diskPath(folders);
  if (folders.disk) {
    // The monitor opens it as the box's own user.
    if (folders.owner) await chown(path, folders.owner.uid, folders.owner.gid);
    return;
  }
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
      ...contents.flatMap(([name, member]) => ["--ro-bind", folders[member], `/content/${name}`]),
    ],
    command: [
      ...["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-i", "8192", "-d", "/content"],
      ...["-E", "root_owner=0:0,lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard", "/disk.img"],
    ],
  });
  for (const folder of contents.map(([, member]) => folders[member])) {
    for (const name of await readdir(folder)) await rm(join(folder, name), { recursive: true, force: true });
  }
}

/**
 * Copies the box's files out of its disk, which must be at rest. The disk is what a guest's kernel
 * wrote, so it is read by a program without rights and never mounted on this machine.
 *
 * @param into private folder of the host's
 * @param isWhole false when its machine ended without writing everything: its journal is then applied first
 * @returns the folders of the box as they are on the disk
 * @throws HostError `DISK_FULL`; Error when the disk cannot be read whole
 */
export async function copyOut(folders: BoxFolders, into: string, isWhole: boolean): Promise<BoxFolders> {
  const { owner } = folders;
  const copies = join(into, "copies");
  await chmod(into, 0o711);
  await mkdir(copies, { mode: 0o700 });
  if (owner) await chown(copies, owner.uid, owner.gid);
  const jail = { owner, mounts: ["--bind", copies, "/copies"] };
  if (!isWhole) {
    const mounts = ["--bind", diskPath(folders), "/disk.img"];
    await runJailed({ ...jail, mounts, command: ["e2fsck", "-p", "-E", "journal_only", "/disk.img"] });
  }
  for (const name of ["workspace", "home"]) {
    const said = await runJailed({
      ...jail,
      mounts: [...jail.mounts, "--ro-bind", diskPath(folders), "/disk.img"],
      command: ["debugfs", "-R", `rdump /${name} /copies`, "/disk.img"],
    });
    // It ends with 0 whatever happened; its first line is its own version.
    const complaints = said
      .split("\n")
      .filter((line) => line.trim() !== "" && !line.startsWith("debugfs ") && !isHarmless(line));
    if (complaints.some((line) => line.includes("No space left"))) {
      throw new HostError("DISK_FULL", 507, "The machine's disk is full. Free space or use another host.");
    }
    if (complaints.length > 0) {
      throw new Error(`The disk of the box cannot be read: ${complaints.join(" ").slice(0, 500)}`);
    }
    await stat(join(copies, name));
  }
  return { ...folders, workspace: join(copies, "workspace"), home: join(copies, "home") };
}

/** As nobody but the owner it may not give files away, and the owner on the disk is a number of the host's. */
const isHarmless = (line: string) => /while changing ownership of/.test(line);

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

/** A copy of a disk at rest as the box's own. */
export async function takeDisk(from: string, folders: BoxFolders): Promise<void> {
  const path = diskPath(folders);
  await rm(path, { force: true });
  await copyDisk(from, path);
  if (folders.owner) await chown(path, folders.owner.uid, folders.owner.gid);
}
