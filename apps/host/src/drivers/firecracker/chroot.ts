import { chmod, chown, copyFile, link, mkdir, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import type { BoxFolders } from "../driver.ts";
import { diskPath } from "../microvm/disk.ts";
import type { MachinePlan } from "../microvm/vmm.ts";

/** Names in the folder that is the whole file system of the monitor. */
export const inChroot = {
  kernel: "kernel",
  initrd: "initrd",
  root: "root.img",
  tools: "tools.img",
  box: "box.img",
  vsock: "vsock.sock",
  metrics: "metrics",
  state: "state",
  memory: "memory",
} as const;

/** The jailer's name for the machine: letters, digits and hyphens. */
export const machineId = (folders: BoxFolders): string => basename(folders.root);

export const chrootBase = (folders: BoxFolders): string => join(folders.root, "vm");

/** Where the jailer puts a machine: below its base by program and id. */
export const chrootOf = (folders: BoxFolders, program: string): string =>
  join(chrootBase(folders), basename(program), machineId(folders), "root");

/** The same file under another name, or a copy where it lies on another disk. */
export async function place(from: string, to: string): Promise<void> {
  await rm(to, { force: true });
  try {
    await link(from, to);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "EXDEV" && code !== "EPERM") throw error;
    await copyFile(from, to);
  }
}

/** Brings into the machine's folder what it opens; the jailer brings the program and its devices. */
export async function furnishChroot(plan: MachinePlan, program: string): Promise<string> {
  const { folders, kit, shape, from } = plan;
  const root = chrootOf(folders, program);
  const at = (name: string) => join(root, name);
  await mkdir(root, { recursive: true, mode: 0o700 });
  const { owner } = folders;
  if (owner) await chown(root, owner.uid, owner.gid);
  await place(join(kit.folder, "kernel"), at(inChroot.kernel));
  await place(join(kit.folder, "initrd"), at(inChroot.initrd));
  if (shape) {
    await place(shape.rootDisk, at(inChroot.root));
    await place(shape.toolsDisk, at(inChroot.tools));
    await link(diskPath(folders), at(inChroot.box)); // A copy would be another disk.
  }
  if (from !== null) {
    // Mapped, never written: all machines of one snapshot share what they do not change.
    for (const name of [inChroot.state, inChroot.memory]) {
      await place(join(from, name), at(name));
      await chmod(at(name), 0o644);
    }
  }
  await writeFile(at(inChroot.metrics), "", { mode: 0o600 });
  if (owner) await chown(at(inChroot.metrics), owner.uid, owner.gid);
  return root;
}
