import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { waitFor } from "@platform/daemon";

const run = promisify(execFile);

export interface Mount {
  readonly folder: string;
  readonly type: string;
  readonly source: string;
}

/** The kernel writes spaces and the like in a path as octal numbers. */
const plain = (path: string) =>
  path.replace(/\\([0-7]{3})/g, (_whole, digits: string) => String.fromCharCode(parseInt(digits, 8)));

/** Mounts of this process's namespace, in the order in which they were made. */
export async function mounts(): Promise<Mount[]> {
  const lines = (await readFile("/proc/self/mountinfo", "utf8")).trim().split("\n");
  return lines.map((line) => {
    const [before = "", after = ""] = line.split(" - ");
    const [type = "", source = ""] = after.split(" ");
    return { folder: plain(before.split(" ")[4] ?? ""), type, source };
  });
}

export async function isMounted(folder: string): Promise<boolean> {
  return (await mounts()).some((mount) => mount.folder === folder);
}

/** @throws Error with what `mount` said */
export async function mount(
  type: string,
  options: readonly string[],
  source: string,
  folder: string,
  cwd = "/",
): Promise<void> {
  await run("mount", ["-t", type, "-o", options.join(","), "--", source, folder], { cwd });
}

/**
 * Takes every mount off the folder; resolves also when there is none. One that something of this
 * machine still uses (a copy that a killed daemon began) is taken out of sight at once and ends with its user.
 */
export async function unmount(folder: string): Promise<void> {
  await waitFor(
    `${folder} to be unmounted`,
    async () => {
      if (!(await isMounted(folder))) return true;
      await run("umount", ["--", folder]).catch(() => run("umount", ["-l", "--", folder]));
      return !(await isMounted(folder));
    },
    10_000,
  );
}

/** Unmounts whatever lies in or below `folder`, innermost first. @returns what it was */
export async function unmountBelow(folder: string): Promise<string[]> {
  const below = (await mounts())
    .map((entry) => entry.folder)
    .filter((path) => path === folder || path.startsWith(`${folder}/`))
    .toReversed();
  for (const path of below) await unmount(path);
  return below;
}

/** Loop devices and the files behind them. */
export async function loopDevices(): Promise<{ device: string; file: string }[]> {
  const names = (await readdir("/sys/block")).filter((name) => name.startsWith("loop"));
  const found = await Promise.all(
    names.map(async (name) => {
      // Only a device in use has the file.
      const file = await readFile(join("/sys/block", name, "loop/backing_file"), "utf8").catch(() => null);
      return file === null ? [] : [{ device: `/dev/${name}`, file: file.trimEnd() }];
    }),
  );
  return found.flat();
}

export async function detachLoop(device: string): Promise<void> {
  await run("losetup", ["-d", device]).catch(async (error: unknown) => {
    // Somebody else was faster: a device frees itself when its mount ends.
    if ((await loopDevices()).some((entry) => entry.device === device)) throw error;
  });
}
