import { chmod, chown, mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { BoxFolders } from "./driver.ts";

/**
 * `disk`: on an image of limited size. `folders`: the same names, without a limit, where images cannot
 * be mounted. `flat`: as boxes were laid out before there were disks; only for those that still run.
 */
export const boxLayouts = ["disk", "folders", "flat"] as const;
export type BoxLayout = (typeof boxLayouts)[number];

/** @param root the box's own folder */
export function foldersAt(root: string, owner: BoxFolders["owner"], layout: BoxLayout): BoxFolders {
  const at = (...names: string[]) => join(root, ...names);
  if (layout === "flat") {
    return {
      ...{ root, owner, disk: null, workspace: at("workspace"), home: at("home"), run: at("run") },
      ...{ etc: at("etc"), log: at("log"), serviceLogs: at("log", "services") },
    };
  }
  return {
    ...{ root, owner, workspace: at("disk", "workspace"), home: at("disk", "home"), run: at("run", "agent") },
    ...{ etc: at("run", "etc"), log: at("log"), serviceLogs: at("disk", "logs") },
    disk: layout === "disk" ? { image: at("disk.img"), mount: at("disk"), run: at("run") } : null,
  };
}

/** Makes a new box's folders. What the box may write belongs to it, but for those that are still to be filled. */
export async function furnish(folders: BoxFolders): Promise<void> {
  const { owner } = folders;
  for (const path of [dirname(folders.workspace), dirname(folders.run)]) {
    await mkdir(path, { recursive: true, mode: 0o711 });
  }
  for (const folder of [folders.workspace, folders.home, folders.serviceLogs, folders.run]) {
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { mode: 0o700 });
    if (owner) await chown(folder, owner.uid, owner.gid);
  }
  await mkdir(folders.etc, { recursive: true });
  await chmod(folders.etc, 0o755);
}
