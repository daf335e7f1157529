import { mkdir, rm, symlink } from "node:fs/promises";
import { join } from "node:path";
import type { Log } from "@platform/daemon";
import { mount, unmountBelow } from "./drivers/linux/mounts.ts";

export interface Programs {
  /** Holds the agent. */
  readonly folder: string;
  readonly toolchain: string;
}

const rootOf = (home: string) => join(home, "shown");

/** Boxes that run have mounts of their own. */
export async function forgetNeutralPrograms(home: string): Promise<void> {
  await unmountBelow(rootOf(home));
}

/**
 * The same folders, read-only, by mounts that do not tell where on this machine they lie: a box sees
 * in /proc/self/mountinfo from which folder each of its mounts comes. An overlay shows only the names
 * that it was given, here those of two links.
 *
 * @returns `null` where overlays cannot be mounted
 */
export async function neutralPrograms(home: string, programs: Programs, log: Log): Promise<Programs | null> {
  const root = rootOf(home);
  const links = join(root, "links");
  const shown = { folder: join(root, "agent"), toolchain: join(root, "toolchain") };
  await forgetNeutralPrograms(home);
  await rm(root, { recursive: true, force: true });
  for (const path of [root, links, join(links, "none"), shown.folder, shown.toolchain]) {
    await mkdir(path, { recursive: true, mode: 0o755 });
  }
  try {
    for (const name of ["folder", "toolchain"] as const) {
      await symlink(programs[name], join(links, name));
      await mount(
        "overlay",
        ["ro", "nodev", "nosuid", `lowerdir=${name}:none`],
        "programs",
        shown[name],
        links,
      );
    }
    return shown;
  } catch (error) {
    log.warn({ err: error }, "boxes can see on this machine where their programs lie");
    await unmountBelow(root);
    return null;
  }
}
