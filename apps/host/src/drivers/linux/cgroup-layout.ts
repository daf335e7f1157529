import { mkdir, mkdtemp, readFile, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

export type Controller = "memory" | "pids" | "cpu" | "cpuacct" | "freezer";

/** Where this daemon may make groups: one parent folder per controller (v1) or one for all (v2). */
export interface CgroupLayout {
  readonly version: 1 | 2;
  /** Parent folder by controller; absent when boxes cannot be held to it here. */
  readonly parents: Partial<Record<Controller, string>>;
}

interface Mount {
  readonly type: string;
  readonly folder: string;
  readonly options: readonly string[];
}

async function cgroupMounts(): Promise<Mount[]> {
  const lines = (await readFile("/proc/self/mountinfo", "utf8")).trim().split("\n");
  return lines.flatMap((line) => {
    const [before = "", after = ""] = line.split(" - ");
    const [type = "", , options = ""] = after.split(" ");
    const folder = before.split(" ")[4] ?? "";
    return type.startsWith("cgroup") ? [{ type, folder, options: options.split(",") }] : [];
  });
}

/** Own group by controller list, such as `memory` or, for v2, the empty name. */
async function ownGroups(): Promise<Map<string, string>> {
  const lines = (await readFile("/proc/self/cgroup", "utf8")).trim().split("\n");
  return new Map(
    lines.flatMap((line) => {
      const [, names = "", ...path] = line.split(":");
      return names.split(",").map((name) => [name, path.join(":")] as const);
    }),
  );
}

/** What the kernel answers where groups are not this daemon's to make. */
const refusals = ["EACCES", "EPERM", "EROFS", "ENOENT"];

async function canMake(folder: string): Promise<boolean> {
  try {
    await mkdir(folder, { recursive: true });
    // A name of its own: several drivers of one daemon may try at the same moment.
    await rmdir(await mkdtemp(`${folder}.trial-`));
    return true;
  } catch (error) {
    // Not ours to write: the box then runs without this limit and says so. Anything else is a fault that
    // must not look like it: a daemon that overlooks a hierarchy leaves its groups behind.
    if (refusals.includes((error as NodeJS.ErrnoException).code ?? "")) return false;
    throw error;
  }
}

/**
 * Groups lie at the hierarchy's root where that is allowed, so that a restarted daemon finds them
 * whatever group it is started in itself; else below the daemon's own group.
 */
function candidates(mount: string, own: string | undefined, name: string): string[] {
  const atRoot = join(mount, name);
  return own && own !== "/" ? [atRoot, join(mount, own, name)] : [atRoot];
}

async function firstVersion(name: string, mounts: Mount[]): Promise<CgroupLayout> {
  const own = await ownGroups();
  const parents: CgroupLayout["parents"] = {};
  for (const controller of ["memory", "pids", "cpu", "cpuacct", "freezer"] as const) {
    const mount = mounts.find((entry) => entry.type === "cgroup" && entry.options.includes(controller));
    if (!mount) continue;
    for (const folder of candidates(mount.folder, own.get(controller), name)) {
      if (!(await canMake(folder))) continue;
      parents[controller] = folder;
      break;
    }
  }
  return { version: 1, parents };
}

async function enable(folder: string, controllers: readonly string[]): Promise<string[]> {
  const enabled: string[] = [];
  for (const controller of controllers) {
    try {
      await writeFile(join(folder, "cgroup.subtree_control"), `+${controller}`);
      enabled.push(controller);
    } catch {
      // Busy (processes in the group itself) or not delegated: reported as a missing limit.
    }
  }
  return enabled;
}

async function secondVersion(name: string, mount: Mount): Promise<CgroupLayout> {
  const own = (await ownGroups()).get("");
  for (const folder of candidates(mount.folder, own, name)) {
    const above = join(folder, "..");
    const offered = (await readFile(join(above, "cgroup.controllers"), "utf8").catch(() => "")).split(/\s+/);
    const wanted = ["memory", "pids", "cpu"].filter((controller) => offered.includes(controller));
    await enable(above, wanted);
    if (!(await canMake(folder))) continue;
    const enabled = await enable(folder, wanted);
    const parents: CgroupLayout["parents"] = { freezer: folder };
    if (enabled.includes("memory")) parents.memory = folder;
    if (enabled.includes("pids")) parents.pids = folder;
    if (enabled.includes("cpu")) Object.assign(parents, { cpu: folder, cpuacct: folder });
    return { version: 2, parents };
  }
  return { version: 2, parents: {} };
}

/** @param name folder of this daemon below each hierarchy */
export async function findCgroups(name: string): Promise<CgroupLayout> {
  const mounts = await cgroupMounts();
  const unified = mounts.find((mount) => mount.type === "cgroup2");
  // A hybrid machine has both; the controllers are then on version 1.
  const hasFirst = mounts.some((mount) => mount.type === "cgroup" && mount.options.includes("memory"));
  if (unified && !hasFirst) return secondVersion(name, unified);
  return firstVersion(name, mounts);
}
