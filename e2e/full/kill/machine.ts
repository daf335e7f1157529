import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, readlinkSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { unmountBelow } from "../../mounts.ts";
import { waitFor } from "./wait.ts";

export interface Child {
  readonly pid: number;
  readonly command: string;
}

interface Process extends Child {
  readonly parent: number;
  readonly uid: number;
  readonly cwd: string;
  readonly groups: string;
}

/** Null when the process ended meanwhile. */
function quietly<T>(read: () => T): T | null {
  try {
    return read();
  } catch {
    return null;
  }
}

function processes(): Process[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      const stat = quietly(() => readFileSync(`/proc/${name}/stat`, "utf8"));
      const status = quietly(() => readFileSync(`/proc/${name}/status`, "utf8"));
      if (stat === null || status === null) return [];
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      if (fields[0] === "Z" || fields[0] === "X") return [];
      const text = (path: string) => quietly(() => readFileSync(`/proc/${name}/${path}`, "utf8")) ?? "";
      return [
        {
          pid: Number(name),
          parent: Number(fields[1]),
          uid: Number(/^Uid:\s+(\d+)/m.exec(status)?.[1] ?? -1),
          command: text("cmdline").replaceAll("\0", " "),
          cwd: quietly(() => readlinkSync(`/proc/${name}/cwd`)) ?? "",
          groups: text("cgroup"),
        },
      ];
    });
}

export const childrenOf = (pid: number): Child[] => processes().filter((one) => one.parent === pid);

/** Our own programs that have this data folder in their settings. */
export const programsOf = (data: string): Child[] =>
  processes().filter(
    (one) =>
      /apps\/[\w-]+\/src\/main\.ts/.test(one.command) &&
      (one.command.includes(data) ||
        (quietly(() => readFileSync(`/proc/${one.pid}/environ`, "utf8")) ?? "").includes(data)),
  );

/** Boxes' control groups and names on command lines carry this. */
const tagOf = (data: string) =>
  createHash("sha256").update(join(data, "host")).digest().toString("hex", 0, 6);

const controlGroupRoots = (): string[] => {
  const mounts = readFileSync("/proc/self/mountinfo", "utf8").trim().split("\n");
  return mounts.filter((line) => / - cgroup2? /.test(line)).map((line) => line.split(" ")[4]!);
};

const below = (folder: string): string[] => quietly(() => readdirSync(folder)) ?? [];

/** Where an engine keeps its servers. */
const engineHomes = (data: string): string[] => {
  const engines = join(data, "host", "engines");
  return below(engines).map((name) => join(engines, name));
};

/** Names of the groups that all boxes lie in, or all databases of an engine. */
const groupParents = (data: string): string[] => [
  `boxes-${tagOf(data)}`,
  ...engineHomes(data).map(
    (home) => `databases-${createHash("sha256").update(home).digest("hex").slice(0, 12)}`,
  ),
];

/** Folders of boxes and databases in the control group tree; `boxes-TAG/KEY`. */
function controlGroups(data: string): string[] {
  const places = controlGroupRoots().flatMap((root) => groupParents(data).map((name) => join(root, name)));
  return places
    .filter((parent) => existsSync(parent))
    .flatMap((parent) =>
      readdirSync(parent, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map((entry) => join(parent, entry.name)),
    );
}

export const boxFolders = (data: string): string[] => below(join(data, "host", "boxes"));
export const databaseFolders = (data: string): string[] =>
  below(join(data, "host", "engines", "postgres", "databases"));

/** Postgres servers of tenants, one line each. */
export const databaseServers = (data: string): Child[] =>
  processes().filter((one) => one.command.includes(`-D ${join(data, "host", "engines")}`));

/** Processes in a box's control groups, the agent's machinery among them. */
export const boxProcesses = (data: string, key: string): Child[] =>
  processes().filter((one) => one.groups.includes(`/boxes-${tagOf(data)}/${key}`));

export const boxOwner = (data: string, key: string): number | null =>
  quietly(
    () =>
      (
        JSON.parse(readFileSync(join(data, "host", "boxes", key, "state.json"), "utf8")) as {
          owner: { uid: number } | null;
        }
      ).owner?.uid ?? null,
  );

/** Uids of the boxes that have a folder now. */
export const boxOwners = (data: string): number[] =>
  boxFolders(data).flatMap((place) => boxOwner(data, place) ?? []);

/** Innermost first. */
const mountsBelow = (folder: string): string[] =>
  readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((path) => path.startsWith(`${folder}/`))
    .reverse();

/** Devices that are made of files below the folder. */
function loopDevices(folder: string): string[] {
  return below("/sys/block")
    .filter((name) => name.startsWith("loop"))
    .flatMap((name) => {
      const file = quietly(() => readFileSync(`/sys/block/${name}/loop/backing_file`, "utf8"))?.trim();
      return file?.startsWith(folder) ? [`device ${name} of ${file}`] : [];
    });
}

/** Everything on the machine that belongs to boxes and databases of this data folder, one line each. */
export function remnants(data: string, owners: ReadonlySet<number>): string[] {
  const boxHome = join(data, "host", "boxes");
  const engineHome = join(data, "host", "engines");
  const tag = tagOf(data);
  const mine = processes().filter(
    (one) =>
      owners.has(one.uid) ||
      one.groups.includes(`boxes-${tag}`) ||
      one.command.includes(`box.${tag}`) ||
      [boxHome, engineHome].some((home) => one.command.includes(home) || one.cwd.startsWith(home)),
  );
  const namespaces = new Map<string, number>();
  for (const one of processes()) {
    const name = quietly(() => readlinkSync(`/proc/${one.pid}/ns/mnt`));
    if (name) namespaces.set(name, one.pid);
  }
  const mounts = [...namespaces.values()].flatMap((pid) =>
    (quietly(() => readFileSync(`/proc/${pid}/mountinfo`, "utf8")) ?? "")
      .split("\n")
      .filter((line) => line.includes(boxHome) || line.includes(engineHome))
      .map((line) => `mount seen by process ${pid}: ${line}`),
  );
  return [
    ...boxFolders(data).map((name) => `box folder ${name}`),
    ...engineHomes(data).flatMap((home) =>
      below(join(home, "databases")).map((name) => `database folder ${name} of ${home}`),
    ),
    ...below(join(data, "host", "snapshots")).map((name) => `snapshot ${name}`),
    ...controlGroups(data).map((folder) => `control group ${folder}`),
    ...mine.map((one) => `process ${one.pid} of uid ${one.uid}: ${one.command.slice(0, 200)}`),
    ...mounts,
    ...loopDevices(boxHome),
    ...loopDevices(engineHome),
  ];
}

/** Kills by number whatever runs from this data folder; for the end of a test. */
export async function endEverythingOf(data: string): Promise<void> {
  const tag = tagOf(data);
  await waitFor(
    "the test's own processes to end",
    () => {
      const left = processes().filter(
        (one) =>
          one.pid !== process.pid &&
          (one.groups.includes(`boxes-${tag}`) ||
            one.command.includes(data) ||
            one.cwd.startsWith(data) ||
            (quietly(() => readFileSync(`/proc/${one.pid}/environ`, "utf8")) ?? "").includes(data)),
      );
      for (const one of left) quietly(() => process.kill(one.pid, "SIGKILL"));
      return left.length === 0;
    },
    30_000,
    100,
  );
  unmountBelow(data);
  for (const mount of mountsBelow(data)) quietly(() => execFileSync("umount", [mount], { stdio: "ignore" }));
  for (const folder of controlGroups(data)) quietly(() => rmdirSync(folder));
  for (const root of controlGroupRoots())
    for (const name of groupParents(data)) quietly(() => rmdirSync(join(root, name)));
}
