import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { cp, mkdir, rename, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { closedFolder, serverHome } from "@platform/postgres";

/**
 * Boxes run as unprivileged uids. Where the wished folder lies below a closed one, such as root's own
 * home, what they must reach is kept below /var/lib instead.
 */
export const boxHome = (dataDir: string): string => serverHome(dataDir);

/** `path` itself, or a copy of it below `home` when boxes could not reach it. The copy is made once per content. */
export async function reachableCopy(path: string, home: string, runsAsRoot: boolean): Promise<string> {
  if (!runsAsRoot || closedFolder(path) === null) return path;
  const { mtimeMs, ino } = await stat(path);
  const name = `${basename(path)}-${createHash("sha256").update(`${path}\0${mtimeMs}\0${ino}`).digest("hex").slice(0, 12)}`;
  const folder = join(home, "programs");
  const copy = join(folder, name);
  await mkdir(folder, { recursive: true, mode: 0o711 });
  if (await stat(copy).catch(() => null)) return copy;
  const half = join(folder, `${name}.half-${process.pid}`);
  await rm(half, { recursive: true, force: true });
  await cp(path, half, { recursive: true, verbatimSymlinks: true, mode: constants.COPYFILE_FICLONE });
  await rename(half, copy);
  return copy;
}
