import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { waitFor } from "@platform/daemon";
import type { BoxLimits, BoxStats } from "@platform/host-api";
import type { CgroupLayout, Controller } from "./cgroup-layout.ts";
import { killNumber } from "./processes.ts";

/**
 * Tasks that the box's own machinery needs beyond the app's: supervisor, init and the agent's
 * threads. The kernel counts threads, so they would otherwise eat the app's allowance.
 */
export const ownTasks = 24;
const periodMicros = 100_000;

export type Share = "fair" | "behind" | "leftover";
/** By version of control groups. */
const weights: Record<Share, readonly [first: number, second: number]> = {
  fair: [1024, 100],
  behind: [64, 6],
  leftover: [2, 1],
};
/** Part of its periods in which a box was stopped at its limit. */
const stoppedPart = 0.3;
const fewestPeriods = 3;
/** Of one core, since the look before. */
const busyPart = 0.2;
const mostTasksSeen = 64;
/** One that steps behind others may not reach its limit for that reason alone: it does so for a while. */
const mostCalmLooks = 20;

interface Look {
  readonly at: number;
  readonly micros: number;
  readonly periods: number;
  readonly throttled: number;
}

const isStopped = (before: Look, now: Look): boolean => {
  const periods = now.periods - before.periods;
  return periods >= fewestPeriods && (now.throttled - before.throttled) / periods > stoppedPart;
};
const isBusy = (before: Look, now: Look): boolean =>
  now.micros - before.micros > busyPart * 1000 * (now.at - before.at);

const unlessMissing = (error: unknown): null => {
  const { code } = error as NodeJS.ErrnoException;
  if (code === "ENOENT" || code === "ENODEV") return null;
  throw error;
};

/** The control groups of all boxes of one daemon; each box's folder is named by its key. */
export class Cgroups {
  readonly #layout: CgroupLayout;
  #isWeighed = false;
  readonly #shares = new Map<string, Share>();
  readonly #looks = new Map<string, Look & { readonly calm: number }>();
  constructor(layout: CgroupLayout) {
    this.#layout = layout;
  }

  get missing(): string[] {
    const { parents } = this.#layout;
    const lacking: [boolean, string][] = [
      [!parents.memory, "memory limit"],
      [!parents.pids, "pids limit"],
      [!parents.cpu, "cpu limit"],
    ];
    return lacking.filter(([isLacking]) => isLacking).map(([, name]) => name);
  }

  get canFreeze(): boolean {
    return this.#layout.parents.freezer !== undefined;
  }

  /**
   * Makes the groups and sets their limits, also when they exist already.
   *
   * @param maxTasks threads that the machine's kernel may count in the box
   */
  async create(key: string, limits: BoxLimits, maxTasks = limits.maxProcesses + ownTasks): Promise<void> {
    for (const folder of this.#folders(key)) await mkdir(folder, { recursive: true });
    await this.#weighTogether();
    await this.limitMemory(key, limits.memoryBytes);
    if (this.#layout.version === 2) await this.#trySet("memory", key, "memory.swap.max", 0);
    await this.limitCpu(key, limits.cpuMillis);
    await this.#set("pids", key, "pids.max", maxTasks);
  }

  /** All boxes together weigh as much as one busy program on each core; as one group they would weigh as one on all. */
  async #weighTogether(): Promise<void> {
    const parent = this.#layout.parents.cpu;
    if (!parent || this.#isWeighed) return;
    this.#isWeighed = true;
    const [file, one] = this.#layout.version === 2 ? ["cpu.weight", 100] : ["cpu.shares", 1024];
    await writeFile(join(parent, file), String(Math.min(10_000, one * availableParallelism()))).catch(
      unlessMissing,
    );
  }

  /** Of a box whose groups are there. @throws Error when it takes more than that now and can give nothing back */
  async limitMemory(key: string, bytes: number): Promise<void> {
    if (this.#layout.version === 2) {
      await this.#set("memory", key, "memory.max", bytes);
      return;
    }
    // With swap it may never be less than without, so raising begins with it and lowering ends with it.
    const together = async () =>
      this.#trySet("memory", key, "memory.memsw.limit_in_bytes", bytes).catch(() => undefined);
    await together();
    await this.#set("memory", key, "memory.limit_in_bytes", bytes);
    await together();
  }

  /**
   * Whether the kernel lets a box stand still that is at its limit, in place of killing a process of it. Only
   * the first version of control groups can; with the second nothing changes.
   */
  async holdAtLimit(key: string, wanted: boolean): Promise<void> {
    if (this.#layout.version === 1) await this.#trySet("memory", key, "memory.oom_control", wanted ? 1 : 0);
  }

  /** How often the kernel refused the box memory, reclaimable or not; `null` if it cannot be read. */
  async refusals(key: string): Promise<number | null> {
    const second = this.#layout.version === 2;
    const text = await this.#get("memory", key, second ? "memory.events" : "memory.failcnt");
    const count = second ? /^max (\d+)$/m.exec(text ?? "")?.[1] : text?.trim();
    return count === undefined ? null : Number(count);
  }

  /** Whether the box stands still now for want of memory. */
  async isHeld(key: string): Promise<boolean> {
    if (this.#layout.version === 2) return false;
    return /^under_oom 1$/m.test((await this.#get("memory", key, "memory.oom_control")) ?? "");
  }

  /** Of a box whose groups are there. */
  async limitCpu(key: string, cpuMillis: number): Promise<void> {
    const quota = cpuMillis * (periodMicros / 1000);
    if (this.#layout.version === 2) {
      await this.#set("cpu", key, "cpu.max", `${quota} ${periodMicros}`);
      return;
    }
    await this.#set("cpu", key, "cpu.cfs_period_us", periodMicros);
    await this.#set("cpu", key, "cpu.cfs_quota_us", quota);
  }

  /**
   * How much of contended cores a box gets beside others: its fair part, what boxes leave that are not at
   * their own limit, or what all leave.
   */
  async share(key: string, share: Share): Promise<void> {
    const parent = this.#layout.parents.cpu;
    if (parent) await mkdir(join(parent, key), { recursive: true });
    const second = this.#layout.version === 2;
    await this.#trySet("cpu", key, second ? "cpu.weight" : "cpu.shares", weights[share][second ? 1 : 0]);
    this.#shares.set(key, share);
  }

  /**
   * A box that wants more than its limit all the time steps behind those that do not: with many threads it would
   * else sit on every core and take a third of another box's one. Its limit it still gets where cores are free.
   * To be called about twice a second.
   */
  async balance(key: string, cpuMillis: number): Promise<void> {
    const share = this.#shares.get(key) ?? (await this.#readShare(key));
    if (share === "leftover") return;
    const text = await this.#get("cpu", key, "cpu.stat");
    const micros = await this.#cpuMicros(key);
    if (text === null || micros === null) return;
    const number = (name: string) => Number(new RegExp(`^${name} (\\d+)$`, "m").exec(text)?.[1] ?? 0);
    const now = {
      at: performance.now(),
      micros,
      periods: number("nr_periods"),
      throttled: number("nr_throttled"),
    };
    const before = this.#looks.get(key) ?? { ...now, calm: 0 };
    const wantsMore =
      isStopped(before, now) || (isBusy(before, now) && (await this.#isCrowded(key, cpuMillis)));
    const calm = wantsMore ? 0 : before.calm + 1;
    this.#looks.set(key, { ...now, calm });
    if (share === "fair" && wantsMore) await this.share(key, "behind");
    if (share === "behind" && calm >= mostCalmLooks) await this.share(key, "fair");
  }

  /** Whether more of its first tasks run or wait for a core than its limit has room for, twice over. */
  async #isCrowded(key: string, cpuMillis: number): Promise<boolean> {
    const file = this.#layout.version === 2 ? "cgroup.threads" : "tasks";
    const tasks = ((await this.#get("cpu", key, file)) ?? "").split("\n").filter(Boolean);
    const states = await Promise.all(
      tasks.slice(0, mostTasksSeen).map((task) => readFile(`/proc/${task}/stat`, "utf8").catch(() => "")),
    );
    const running = states.filter((text) => text.slice(text.lastIndexOf(")") + 2).startsWith("R")).length;
    return running > 2 * Math.ceil(cpuMillis / 1000);
  }

  /** What an earlier daemon gave it. */
  async #readShare(key: string): Promise<Share> {
    const version = this.#layout.version === 2 ? 1 : 0;
    const text = await this.#get("cpu", key, version === 1 ? "cpu.weight" : "cpu.shares");
    const found = (["behind", "leftover"] as const).find((one) => weights[one][version] === Number(text));
    this.#shares.set(key, found ?? "fair");
    return found ?? "fair";
  }

  async join(key: string, pid: number): Promise<void> {
    for (const folder of this.#folders(key)) await writeFile(join(folder, "cgroup.procs"), String(pid));
  }

  async pause(key: string): Promise<void> {
    await this.#freeze(key, true);
  }

  async resume(key: string): Promise<void> {
    await this.#freeze(key, false);
  }

  /** Processes that the kernel killed for memory in this group; `null` if it cannot be read. */
  async oomKills(key: string): Promise<number | null> {
    const file = this.#layout.version === 2 ? "memory.events" : "memory.oom_control";
    const text = await this.#get("memory", key, file);
    const line = text?.split("\n").find((entry) => entry.startsWith("oom_kill "));
    return line === undefined ? null : Number(line.split(" ")[1]);
  }

  /** How often the kernel refused the group another task; `null` if it cannot be read. */
  async taskRefusals(key: string): Promise<number | null> {
    const found = /^max (\d+)$/m.exec((await this.#get("pids", key, "pids.events")) ?? "")?.[1];
    return found === undefined ? null : Number(found);
  }

  async stats(key: string): Promise<Omit<BoxStats, "diskBytes">> {
    const second = this.#layout.version === 2;
    const number = async (controller: Controller, file: string) => {
      const text = await this.#get(controller, key, file);
      const value = text === null ? Number.NaN : Number(text.trim());
      return Number.isFinite(value) ? value : null;
    };
    return {
      memoryBytes: await number("memory", second ? "memory.current" : "memory.usage_in_bytes"),
      memoryPeakBytes: await number("memory", second ? "memory.peak" : "memory.max_usage_in_bytes"),
      memoryLimitBytes: await number("memory", second ? "memory.max" : "memory.limit_in_bytes"),
      cpuMicros: await this.#cpuMicros(key),
      processes: await number("pids", "pids.current"),
      oomKills: await this.oomKills(key),
    };
  }

  /** Kills what is left in the groups and removes them; resolves when they are gone. */
  async destroy(key: string): Promise<void> {
    this.#shares.delete(key);
    this.#looks.delete(key);
    if (this.canFreeze) await this.thaw(key);
    for (const folder of this.#folders(key)) {
      await waitFor(
        `control group ${folder} to be gone`,
        async () => {
          for (const pid of await pidsIn(folder)) killNumber(pid);
          return removeTree(folder);
        },
        10_000,
      );
    }
  }

  async keys(): Promise<string[]> {
    const found = new Set<string>();
    for (const parent of Object.values(this.#layout.parents)) {
      const entries = await readdir(parent, { withFileTypes: true });
      for (const entry of entries) if (entry.isDirectory()) found.add(entry.name);
    }
    return [...found];
  }

  /** Removes the daemon's own parent folders where they are empty. */
  async forget(): Promise<void> {
    for (const parent of new Set(Object.values(this.#layout.parents))) {
      await rmdir(parent).catch(() => undefined); // Still used by a box: the next start finds it.
    }
  }

  #folders(key: string): string[] {
    return [...new Set(Object.values(this.#layout.parents))].map((parent) => join(parent, key));
  }

  async #cpuMicros(key: string): Promise<number | null> {
    if (this.#layout.version === 2) {
      const text = await this.#get("cpuacct", key, "cpu.stat");
      const line = text?.split("\n").find((entry) => entry.startsWith("usage_usec "));
      return line === undefined ? null : Number(line.split(" ")[1]);
    }
    const nanos = await this.#get("cpuacct", key, "cpuacct.usage");
    return nanos === null ? null : Math.round(Number(nanos) / 1000);
  }

  async #freeze(key: string, wanted: boolean): Promise<void> {
    const second = this.#layout.version === 2;
    const states = second ? ["0", "1"] : ["THAWED", "FROZEN"];
    await this.#set("freezer", key, second ? "cgroup.freeze" : "freezer.state", states[Number(wanted)] ?? "");
    await waitFor(
      wanted ? "the box to be frozen" : "the box to run again",
      async () => {
        const text = await this.#get("freezer", key, second ? "cgroup.events" : "freezer.state");
        if (second) return text?.includes(`frozen ${Number(wanted)}`);
        return text?.trim() === states[Number(wanted)];
      },
      10_000,
    );
  }

  /** Lets the processes of a group run, if the group is there; does not wait for it. */
  async thaw(key: string): Promise<void> {
    const second = this.#layout.version === 2;
    const [file, value] = second ? ["cgroup.freeze", "0"] : ["freezer.state", "THAWED"];
    await this.#trySet("freezer", key, file ?? "", value ?? "");
  }

  async #get(controller: Controller, key: string, file: string): Promise<string | null> {
    const parent = this.#layout.parents[controller];
    return parent ? readFile(join(parent, key, file), "utf8").catch(unlessMissing) : null;
  }

  async #set(controller: Controller, key: string, file: string, value: number | string): Promise<void> {
    const parent = this.#layout.parents[controller];
    if (parent) await writeFile(join(parent, key, file), String(value));
  }

  /** For files that not every kernel has, such as those of swap. */
  async #trySet(controller: Controller, key: string, file: string, value: number | string): Promise<void> {
    const parent = this.#layout.parents[controller];
    if (parent) await writeFile(join(parent, key, file), String(value), { flag: "r+" }).catch(unlessMissing);
  }
}

async function pidsIn(folder: string): Promise<number[]> {
  const text = await readFile(join(folder, "cgroup.procs"), "utf8").catch(unlessMissing);
  return (text ?? "").split("\n").filter(Boolean).map(Number);
}

/** @returns whether the folder is gone; `false` while a process in it still ends */
async function removeTree(folder: string): Promise<boolean> {
  try {
    await rmdir(folder);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return true;
    if (code === "EBUSY" || code === "ENOTEMPTY") return false;
    throw error;
  }
}
