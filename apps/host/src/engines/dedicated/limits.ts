import { execFile } from "node:child_process";
import { existsSync, statfsSync, statSync } from "node:fs";
import { mkdir, rm, statfs } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Log } from "@platform/daemon";
import type { BoxLimits } from "@platform/host-api";
import { Disks } from "../../disks/index.ts";
import { findCgroups } from "../../drivers/linux/cgroup-layout.ts";
import { Cgroups } from "../../drivers/linux/cgroups.ts";
import { serverEnvironment } from "@platform/postgres";
import type { DatabaseFolders, DatabaseState } from "./database-state.ts";
import type { Entry } from "./entry.ts";
import type { ServerKind } from "./kind.ts";
import { processesOfUser } from "./measure.ts";

const run = promisify(execFile);

/** With less than this free the disk counts as full: a server needs some room for every write. */
const leastRoomBytes = 2 * 1024 * 1024;
const maxProcesses = 512;
const ballastBytes = 32 * 1024 * 1024;

export interface DiskSeen {
  readonly usedBytes: number;
  readonly limitBytes: number;
  readonly isFull: boolean;
}

/** What holds each server to its size, as far as the machine allows. */
export class ServerLimits {
  readonly #disks: Disks | null;
  readonly #groups: Cgroups | null;
  constructor(parts: { disks: Disks | null; groups: Cgroups | null }) {
    this.#disks = parts.disks;
    this.#groups = parts.groups;
  }

  get hasDisk(): boolean {
    return this.#disks !== null;
  }

  get hasMemory(): boolean {
    return this.#groups !== null && !this.#groups.missing.includes("memory limit");
  }

  /** Empty disks, mounted; without limits a plain folder does. */
  async makeDisks(folders: DatabaseFolders, spec: DatabaseState["spec"], kind: ServerKind) {
    if (!this.#disks) return;
    const limits = limitsOf(spec);
    const reserve = kind.quota === null ? 0 : kind.quota.reserveBytes(spec) + ballastBytes;
    await this.#disks.makeVolume(folders.disk, { ...limits, diskBytes: limits.diskBytes + reserve });
    if (kind.quota !== null) await fillBallast(folders);
    if (kind.journalBytes !== null) {
      await this.#disks.makeVolume(folders.journalDisk, { ...limits, diskBytes: kind.journalBytes });
    }
  }

  async mountDisks(folders: DatabaseFolders, hasJournal: boolean): Promise<void> {
    if (!this.#disks) return;
    await this.#disks.mountVolume(folders.disk);
    if (hasJournal) await this.#disks.mountVolume(folders.journalDisk);
  }

  async removeDisks(folders: DatabaseFolders): Promise<void> {
    if (!this.#disks) return;
    for (const disk of [folders.disk, folders.journalDisk]) {
      await this.#disks.unmountVolume(disk);
      await rm(disk.image, { force: true });
    }
  }

  /** Frees mounts and loop devices below the databases' folder that belong to none of them. */
  async sweep(homes: ReadonlySet<string>): Promise<void> {
    await this.#disks?.sweep(homes);
    for (const home of (await this.#groups?.keys()) ?? [])
      if (!homes.has(home)) await this.#groups?.destroy(home);
  }

  /** The group must be there before the server is; its children then are born into it. */
  async makeGroup(state: DatabaseState): Promise<void> {
    await this.#groups?.create(state.home, limitsOf(state.spec));
  }

  async hold(state: DatabaseState, pid: number): Promise<void> {
    if (!this.#groups) return;
    await this.#groups.join(state.home, pid);
    // What the server had started before it was in the group.
    if (state.uid === null) return;
    for (const child of processesOfUser(state.uid)) {
      await this.#groups.join(state.home, child).catch((error: unknown) => {
        if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
      });
    }
  }

  /** Groups that nothing is in any more; the daemon that stops leaves none behind when it has no databases. */
  async forget(): Promise<void> {
    await this.#groups?.forget();
  }

  async removeGroup(home: string): Promise<void> {
    await this.#groups?.destroy(home);
  }

  async oomKills(home: string): Promise<number> {
    return (await this.#groups?.oomKills(home)) ?? 0;
  }

  async memoryBytes(home: string): Promise<number | null> {
    return this.#groups ? (await this.#groups.stats(home)).memoryBytes : null;
  }

  /** `null` where the disk is not limited, or not there now. */
  disk(entry: Entry, kind: ServerKind): DiskSeen | null {
    const { folders, state } = entry;
    if (!state.hasDisk || !existsSync(folders.data)) return null;
    const { blocks, bavail, bfree, bsize } = statfsSync(folders.disk.mount);
    const ballast = (statSync(folders.ballast, { throwIfNoEntry: false })?.blocks ?? 0) * 512;
    const passing = kind.quota?.passingBytes?.(entry) ?? 0;
    const usedBytes = (blocks - bfree) * bsize - ballast - passing;
    const room = bavail * bsize;
    if (kind.quota === null) return { usedBytes, limitBytes: blocks * bsize, isFull: room < leastRoomBytes };
    const limitBytes = state.spec.storageBytes;
    return { usedBytes, limitBytes, isFull: usedBytes > limitBytes || room < leastRoomBytes };
  }

  /** A server that ended on a full disk gets the room that was kept for this moment. */
  async makeRoom({ folders, state }: Entry): Promise<void> {
    if (!state.hasDisk) return;
    const { bavail, bsize } = await statfs(folders.disk.mount);
    if (bavail * bsize < leastRoomBytes * 8) await rm(folders.ballast, { force: true });
  }

  async keepRoom({ folders, state }: Entry): Promise<void> {
    if (state.hasDisk && !existsSync(folders.ballast)) await fillBallast(folders);
  }
}

/** Its blocks are taken, not written. */
async function fillBallast({ ballast }: DatabaseFolders): Promise<void> {
  await run("fallocate", ["-l", String(ballastBytes), "--", ballast], { env: serverEnvironment });
}

/**
 * Tries what this machine can limit.
 *
 * @param home folder that holds the databases' folders, of one engine alone
 * @param tag marks the control groups of this daemon and engine
 */
export async function openServerLimits(options: {
  home: string;
  tag: string;
  runsAsRoot: boolean;
  log: Log;
}): Promise<ServerLimits> {
  const { home, tag, runsAsRoot, log } = options;
  const at = (name: string) => join(home, name);
  await mkdir(at("probes"), { recursive: true, mode: 0o700 });
  const place = { templates: at("disks"), boxes: at("databases"), scratch: at("probes"), runsAsRoot };
  const { disks, why } = await Disks.open(place);
  const groups = runsAsRoot ? new Cgroups(await findCgroups(`databases-${tag}`)) : null;
  const missing = groups?.missing ?? ["memory limit", "cpu limit"];
  if (why !== null || missing.length > 0)
    log.warn({ why, missing }, "the sizes of databases are not all enforced");
  return new ServerLimits({ disks, groups });
}

const limitsOf = (spec: DatabaseState["spec"]): BoxLimits => ({
  memoryBytes: spec.memoryBytes,
  cpuMillis: spec.cpuMillis,
  maxProcesses,
  diskBytes: spec.storageBytes,
});
