import { chown, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { HostError, type BoxFailure, type BoxStats, type ResolvedBoxSpec } from "@platform/host-api";
import { z } from "zod";
import type { BoxFolders, DriverState, GuestImage, SandboxDriver, StartedBox } from "../driver.ts";
import { findCgroups } from "../linux/cgroup-layout.ts";
import { Cgroups } from "../linux/cgroups.ts";
import { findByArgument, isAlive, endProcesses } from "../linux/processes.ts";
import { hostsFile } from "../linux/rootfs.ts";
import { withTrial } from "../linux/trial.ts";
import { boundConsole, consoleTail, explainEnd } from "./console.ts";
import { copyDisk, copyOut, diskPath, makeDisk } from "./disk.ts";
import { ReadOnlyImages } from "./images.ts";
import { readKit, type MicrovmKit } from "./kit.ts";
import { clock, type Session } from "./session.ts";
import { Sessions } from "./sessions.ts";
import { encodeSettings, guestSettings } from "./settings.ts";
import type { MachineProcesses, MachineShape, Vmm, VmmReport } from "./vmm.ts";

const mib = 1024 * 1024;
const callTimeoutMs = 30_000;
const statsTimeoutMs = 2_000;

const Identity = z.object({ pid: z.int(), startTicks: z.string() });
const Shape = z.object({
  memoryBytes: z.int(),
  cores: z.int(),
  diskBytes: z.int(),
  rootDisk: z.string(),
  toolsDisk: z.string(),
});
const State = z.object({
  supervisor: Identity,
  init: Identity,
  shape: Shape,
  /** As given to `start`; the calls that follow get only this state. */
  folders: z.custom<BoxFolders>((value) => typeof value === "object" && value !== null),
});
type State = z.output<typeof State>;

/** What a checkpoint needs to go on; beside the monitor's own files and `disk.img`. */
const Checkpoint = z.object({ vmm: z.string(), version: z.string(), kit: z.string(), shape: Shape });
const checkpointFile = "machine.json";

const readCheckpoint = async (from: string) =>
  Checkpoint.parse(JSON.parse(await readFile(join(from, checkpointFile), "utf8")));

export interface MicrovmOptions {
  /** Distinguishes this daemon's boxes from another daemon's: letters and digits, equal at every start. */
  readonly tag: string;
  readonly runsAsRoot: boolean;
  /** Folder for probes, on the file system of the boxes. */
  readonly scratch: string;
  /** Folder for read-only disks made of templates. */
  readonly images: string;
  /** Folder made by apps/guest/build-microvm.ts; `null` where none is configured. */
  readonly kitFolder: string | null;
  /** Uid and gid that a probe takes; `null` when not root. */
  readonly probeOwner: { uid: number; gid: number } | null;
  /** Most time from power-on to the first answer of the guest's first process, in milliseconds. */
  readonly bootTimeoutMs: number;
}

/** Boxes that are virtual machines of their own; `vmm` is the program that runs them. */
export async function createMicrovmDriver(vmm: Vmm, options: MicrovmOptions): Promise<SandboxDriver> {
  return new MicrovmDriver(vmm, options, new Cgroups(await findCgroups(`boxes-${options.tag}`)));
}

class MicrovmDriver implements SandboxDriver {
  readonly name: string;
  readonly disk = "attached";
  readonly readyTimeoutMs: number;
  readonly freezer: NonNullable<SandboxDriver["freezer"]>;
  readonly checkpoints: NonNullable<SandboxDriver["checkpoints"]>;
  readonly files: NonNullable<SandboxDriver["files"]>;
  readonly #vmm: Vmm;
  readonly #options: MicrovmOptions;
  readonly #cgroups: Cgroups;
  readonly #sessions: Sessions;
  readonly #images: ReadOnlyImages;
  #found: { kit: MicrovmKit; report: VmmReport } | null = null;

  constructor(vmm: Vmm, options: MicrovmOptions, cgroups: Cgroups) {
    this.name = vmm.name;
    this.readyTimeoutMs = options.bootTimeoutMs;
    this.#vmm = vmm;
    this.#options = options;
    this.#cgroups = cgroups;
    this.#sessions = new Sessions(vmm);
    this.#images = new ReadOnlyImages(options.images);
    this.freezer = {
      pause: (key, state) => this.#pause(key, State.parse(state)),
      resume: (key, state) => this.#resume(key, State.parse(state)),
    };
    this.checkpoints = {
      save: (_key, state, folders, into) => this.#save(State.parse(state), folders, into),
      whyNot: (spec, image, from) => this.#whyNot(spec, image, from),
      restore: (key, spec, folders, _image, from, signal) => this.#restore(key, spec, folders, from, signal),
    };
    this.files = {
      copyOut: async (_key, state, folders, into) => {
        const { init } = State.parse(state);
        return copyOut(folders, into, await isAlive(init));
      },
    };
  }

  async probe(signal: AbortSignal): ReturnType<SandboxDriver["probe"]> {
    const level = this.name === "firecracker" ? ("microvm-hw" as const) : ("microvm-emulated" as const);
    let version: string | null = null;
    try {
      const found = await this.#find(signal);
      version = found.report.version;
      await this.#startTrial(found.kit, signal);
      const { report } = found;
      return {
        driver: this.name,
        usable: true,
        level: report.level,
        version,
        why: null,
        missing: this.#missing(report),
      };
    } catch (error) {
      const why = `${this.name}: ${(error as Error).message}`;
      return { driver: this.name, usable: false, level, version, why, missing: [...this.#cgroups.missing] };
    }
  }

  async start(
    key: string,
    spec: ResolvedBoxSpec,
    folders: BoxFolders,
    image: GuestImage,
    signal: AbortSignal,
  ): Promise<StartedBox> {
    const shape = await this.#shape(spec, image);
    await makeDisk(folders, spec.limits.diskBytes);
    return this.#run(key, spec, folders, shape, null, signal);
  }

  async failure(key: string, state: DriverState): Promise<BoxFailure | null> {
    const { supervisor, init, folders } = State.parse(state);
    if ((await isAlive(supervisor)) && (await isAlive(init))) {
      this.#sessions.tend(key, folders);
      await boundConsole(folders);
      return null;
    }
    const figures = await this.#cgroups.stats(key);
    return explainEnd(await consoleTail(folders), figures.oomKills ?? 0, figures);
  }

  async dialGuest(key: string, _state: DriverState, folders: BoxFolders) {
    const session = await this.#sessions.get(key, folders);
    await session.greeted(AbortSignal.timeout(callTimeoutMs));
    return session.open();
  }

  async destroy(key: string, state: DriverState | null): Promise<void> {
    this.#sessions.close(key);
    const known = state ? State.parse(state) : null;
    await endProcesses(key, this.#marker(key), known ? [known.init, known.supervisor] : []);
    await this.#cgroups.destroy(key);
    await this.#vmm.forget(key);
  }

  async stats(key: string, state: DriverState): Promise<BoxStats> {
    const { folders } = State.parse(state);
    const outside = await this.#cgroups.stats(key);
    const session = await this.#sessions.get(key, folders).catch(() => null);
    const text = session?.isGreeted
      ? await session.call("stats", Buffer.alloc(0), AbortSignal.timeout(statsTimeoutMs)).catch(() => null)
      : null;
    // A paused guest says nothing; what its monitor takes is known all the same.
    if (text === null) return { ...outside, processes: null, diskBytes: null };
    const inside = new Map(text.split(" ").map((word) => word.split("=", 2) as [string, string]));
    const number = (name: string) => {
      const value = Number(inside.get(name) ?? Number.NaN);
      return Number.isFinite(value) && value >= 0 ? value : null;
    };
    return {
      memoryBytes: number("memoryBytes"),
      memoryPeakBytes: number("memoryPeakBytes"),
      memoryLimitBytes: number("memoryLimitBytes"),
      cpuMicros: outside.cpuMicros,
      processes: number("processes"),
      oomKills: number("oomKills"),
      diskBytes: number("diskBytes"),
    };
  }

  async relink(folders: BoxFolders, spec: ResolvedBoxSpec): Promise<void> {
    const key = folders.root.slice(folders.root.lastIndexOf("/") + 1);
    const session = await this.#greeted(key, folders);
    session.sendSettings(encodeSettings([["r/run/etc/hosts", hostsFile(spec)]]));
    await session.call("setup", Buffer.alloc(0), AbortSignal.timeout(callTimeoutMs));
  }

  async remnants(): Promise<string[]> {
    const prefix = this.#marker("");
    const marked = await findByArgument(prefix, true);
    const keys = marked.map(({ argument }) => argument.slice(prefix.length));
    return [...new Set([...keys, ...(await this.#cgroups.keys())])];
  }

  #marker(key: string): string {
    return `box.${this.#options.tag}.${key}`;
  }

  #missing(report: VmmReport): string[] {
    return [...this.#cgroups.missing, ...(this.#options.runsAsRoot ? [] : ["own uid"]), ...report.missing];
  }

  async #find(signal: AbortSignal): Promise<{ kit: MicrovmKit; report: VmmReport }> {
    this.#found ??= {
      kit: await readKit(this.#options.kitFolder),
      report: await this.#vmm.report(signal),
    };
    return this.#found;
  }

  async #greeted(key: string, folders: BoxFolders): Promise<Session> {
    const session = await this.#sessions.get(key, folders);
    await session.greeted(AbortSignal.timeout(callTimeoutMs));
    return session;
  }

  /** Boots or restores the machine and tells it who it is. */
  async #run(
    key: string,
    spec: ResolvedBoxSpec,
    folders: BoxFolders,
    shape: MachineShape,
    from: string | null,
    signal: AbortSignal,
  ): Promise<StartedBox> {
    const { report } = await this.#find(signal);
    try {
      const processes = await this.#power(key, folders, shape, from, signal);
      if (from !== null) await this.#vmm.resume(folders);
      const session = await this.#untilGreeted(key, folders, processes, signal);
      session.sendSettings(await guestSettings(spec, folders));
      const timeout = AbortSignal.any([signal, AbortSignal.timeout(this.#options.bootTimeoutMs)]);
      const kernel = await session.call("setup", Buffer.alloc(0), timeout);
      return {
        driverState: { ...processes, shape, folders },
        isolation: { driver: this.name, level: report.level, kernel, missing: this.#missing(report) },
      };
    } catch (cause) {
      const said = (await consoleTail(folders)).trim().slice(-2000);
      await this.destroy(key, null);
      if (cause instanceof HostError || signal.aborted) throw cause;
      throw new Error(`${(cause as Error).message}${said ? `: ${said}` : ""}`, { cause });
    }
  }

  async #power(
    key: string,
    folders: BoxFolders,
    shape: MachineShape | null,
    from: string | null,
    signal: AbortSignal,
  ): Promise<MachineProcesses> {
    signal.throwIfAborted();
    const { kit } = await this.#find(signal);
    const memoryBytes = shape?.memoryBytes ?? 128 * mib;
    const cores = shape?.cores ?? 1;
    await mkdir(join(folders.root, "vm"), { recursive: true, mode: 0o700 });
    if (folders.owner) await chown(join(folders.root, "vm"), folders.owner.uid, folders.owner.gid);
    await this.#cgroups.create(key, {
      memoryBytes: memoryBytes + this.#vmm.overheadBytes,
      cpuMillis: cores * 1000,
      maxProcesses: 64 + cores * 4,
      diskBytes: mib,
    });
    const plan = { key, kit, folders, shape, memoryBytes, cores, from, marker: this.#marker(key) };
    return this.#vmm.start({ ...plan, beforeExec: (pid) => this.#cgroups.join(key, pid) }, signal);
  }

  /** @throws Error when the machine ends or stays silent */
  async #untilGreeted(
    key: string,
    folders: BoxFolders,
    processes: MachineProcesses,
    signal: AbortSignal,
  ): Promise<Session> {
    const timeout = AbortSignal.any([signal, AbortSignal.timeout(this.#options.bootTimeoutMs)]);
    for (;;) {
      timeout.throwIfAborted();
      if (!(await isAlive(processes.init))) {
        const end = explainEnd(await consoleTail(folders), (await this.#cgroups.oomKills(key)) ?? 0, {});
        throw new Error(end.detail);
      }
      try {
        const session = await this.#sessions.get(key, folders);
        await session.greeted(AbortSignal.any([timeout, AbortSignal.timeout(1_000)]));
        return session;
      } catch {
        // The guest still boots. A vsock is refused until it listens; a port just stays silent.
        signal.throwIfAborted();
        await delay(20);
      }
    }
  }

  async #pause(key: string, { folders }: State): Promise<void> {
    const session = await this.#greeted(key, folders);
    await session.call("freeze", Buffer.alloc(0), AbortSignal.timeout(callTimeoutMs));
    await this.#vmm.pause(folders);
  }

  async #resume(key: string, { folders }: State): Promise<void> {
    await this.#vmm.resume(folders);
    const session = await this.#greeted(key, folders);
    await session.call("thaw", clock(), AbortSignal.timeout(callTimeoutMs));
  }

  async #save(state: State, folders: BoxFolders, into: string): Promise<void> {
    const { kit, report } = await this.#find(AbortSignal.timeout(callTimeoutMs));
    await this.#vmm.save(folders, into);
    await copyDisk(diskPath(folders), join(into, "disk.img"));
    const made = { vmm: this.name, version: report.version, kit: kit.digest, shape: state.shape };
    await writeFile(join(into, checkpointFile), JSON.stringify(made));
  }

  async #whyNot(spec: ResolvedBoxSpec, image: GuestImage, from: string): Promise<string | null> {
    const { kit, report } = await this.#find(AbortSignal.timeout(callTimeoutMs));
    const saved = await readCheckpoint(from);
    const made = `${saved.vmm} ${saved.version} with guest kernel ${saved.kit.slice(0, 12)}`;
    const here = `${this.name} ${report.version} with guest kernel ${kit.digest.slice(0, 12)}`;
    if (made !== here) return `Its memory was saved by ${made} and cannot go on under ${here}.`;
    const shape = await this.#shape(spec, image);
    const different = Object.entries(shape).filter(
      ([name, value]) => value !== saved.shape[name as keyof MachineShape],
    );
    if (different.length === 0) return null;
    return `Its memory belongs to a machine with another ${different.map(([name]) => name).join(", ")}.`;
  }

  /** @throws HostError `INVALID` for a template that no machine can boot */
  async #shape(spec: ResolvedBoxSpec, image: GuestImage): Promise<MachineShape> {
    if (!image.root) {
      const message = `Template "${spec.template}" is this machine's own system, which a virtual machine cannot share. Use a built template.`;
      throw new HostError("INVALID", 400, message);
    }
    return {
      memoryBytes: Math.floor(spec.limits.memoryBytes / mib) * mib,
      cores: Math.max(1, Math.ceil(spec.limits.cpuMillis / 1000)),
      diskBytes: spec.limits.diskBytes,
      rootDisk: await this.#images.root(image.root),
      toolsDisk: await this.#images.tools(image),
    };
  }

  async #restore(
    key: string,
    spec: ResolvedBoxSpec,
    folders: BoxFolders,
    from: string,
    signal: AbortSignal,
  ): Promise<StartedBox> {
    const saved = await readCheckpoint(from);
    await rm(diskPath(folders), { force: true });
    await copyDisk(join(from, "disk.img"), diskPath(folders));
    if (folders.owner) await chown(diskPath(folders), folders.owner.uid, folders.owner.gid);
    return this.#run(key, spec, folders, saved.shape, from, signal);
  }

  /** The kernel and process 1 of every box, without its disks. */
  async #startTrial(kit: MicrovmKit, signal: AbortSignal): Promise<void> {
    const { scratch, probeOwner } = this.#options;
    await withTrial(scratch, probeOwner, async ({ key, folders }) => {
      try {
        const processes = await this.#power(key, folders, null, null, signal);
        await this.#untilGreeted(key, folders, processes, signal);
      } catch (cause) {
        const said = (await consoleTail(folders)).trim().slice(-500);
        const why = `${(cause as Error).message} ${said}`;
        throw new Error(`A trial machine with kernel ${kit.kernelVersion} did not start: ${why}`, { cause });
      } finally {
        await this.destroy(key, null);
      }
    });
  }
}
