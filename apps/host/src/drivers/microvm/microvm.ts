import { join } from "node:path";
import { HostError, type BoxFailure, type BoxStats, type ResolvedBoxSpec } from "@platform/host-api";
import { z } from "zod";
import type { BoxFolders, DriverState, GuestImage, SandboxDriver, StartedBox } from "../driver.ts";
import { findCgroups } from "../linux/cgroup-layout.ts";
import { Cgroups } from "../linux/cgroups.ts";
import { findByArgument, isAlive, endProcesses } from "../linux/processes.ts";
import { hostsFile } from "../linux/rootfs.ts";
import { withTrial } from "../linux/trial.ts";
import { boundConsole, consoleTail, explainEnd } from "./console.ts";
import { copyDisk, copyOut, diskPath, makeDisk, takeDisk } from "./disk.ts";
import {
  currentFormat,
  diskFile,
  readCheckpoint,
  Shape,
  whyNotFrom,
  writeCheckpoint,
  type Checkpoint,
} from "./checkpoint.ts";
import { ReadOnlyImages } from "./images.ts";
import { readKit, type MicrovmKit } from "./kit.ts";
import { Machines, markerOf } from "./machines.ts";
import { PreparedMachines } from "./prepared.ts";
import { clock, type Session } from "./session.ts";
import { Sessions } from "./sessions.ts";
import { encodeSettings } from "./settings.ts";
import { figuresOf } from "./figures.ts";
import type { MachineProcesses, MachineShape, Vmm, VmmReport } from "./vmm.ts";

const mib = 1024 * 1024;
/** Most time for one call to a guest; an emulated one on a busy machine has as long as its boot. */
const leastCallTimeoutMs = 30_000;
const statsTimeoutMs = 2_000;

const Identity = z.object({ pid: z.int(), startTicks: z.string() });
const State = z.object({
  supervisor: Identity,
  init: Identity,
  shape: Shape,
  /** As given to `start`; the calls that follow get only this state. */
  folders: z.custom<BoxFolders>((value) => typeof value === "object" && value !== null),
  kernel: z.string().default("Linux"),
});
type State = z.output<typeof State>;

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
  readonly standby: NonNullable<SandboxDriver["standby"]>;
  readonly #callTimeoutMs: number;
  readonly #vmm: Vmm;
  readonly #options: MicrovmOptions;
  readonly #cgroups: Cgroups;
  readonly #sessions: Sessions;
  readonly #machines: Machines;
  readonly #images: ReadOnlyImages;
  readonly #prepared: PreparedMachines;
  /** Boxes that wait, in which nothing moves. */
  readonly #resting = new Set<string>();
  #found: { kit: MicrovmKit; report: VmmReport } | null = null;

  constructor(vmm: Vmm, options: MicrovmOptions, cgroups: Cgroups) {
    this.name = vmm.name;
    this.readyTimeoutMs = options.bootTimeoutMs;
    this.#callTimeoutMs = Math.max(leastCallTimeoutMs, options.bootTimeoutMs);
    this.#vmm = vmm;
    this.#options = options;
    this.#cgroups = cgroups;
    this.#sessions = new Sessions(vmm);
    this.#machines = new Machines({ vmm, cgroups, sessions: this.#sessions }, options);
    this.#images = new ReadOnlyImages(options.images);
    this.#prepared = new PreparedMachines(join(options.images, "prepared"));
    this.freezer = {
      pause: (key, state) => this.#pause(key, State.parse(state)),
      resume: (key, state) => this.#goOn(key, State.parse(state).folders),
    };
    this.checkpoints = {
      save: (_key, state, folders, into) => this.#save(State.parse(state), folders, into),
      whyNot: (spec, image, from) => this.#whyNot(spec, image, from),
      restore: (key, spec, folders, _image, from, signal) => this.#restore(key, spec, folders, from, signal),
    };
    this.standby = {
      start: (...args) => this.#startStandby(...args),
      settle: (key, state) => this.#settle(key, State.parse(state)),
      claim: (key, state, spec, folders) => this.#claim(key, State.parse(state), spec, folders),
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
    const from = isEmpty(spec) ? await this.#prepared.find(await this.#kindOf(shape, signal)) : null;
    if (from !== null) {
      await takeDisk(join(from, diskFile), folders);
      const started = await this.#run(key, spec, folders, shape, from, signal);
      return { ...started, goesOn: "answered" };
    }
    await makeDisk(folders, spec.limits.diskBytes);
    return this.#run(key, spec, folders, shape, null, signal);
  }

  /** A copy of a machine that was saved waits as it is: its first instruction is its claim's. */
  async #startStandby(...args: Parameters<SandboxDriver["start"]>): Promise<StartedBox> {
    const [key, spec, folders, image, signal] = args;
    const shape = await this.#shape(spec, image);
    await this.#cgroups.share(key, "leftover");
    const from = await this.#prepared.find(await this.#kindOf(shape, signal));
    if (from === null) return this.start(...args);
    const { kernel } = await readCheckpoint(from);
    await takeDisk(join(from, diskFile), folders);
    return this.#guarded(key, folders, signal, async () => {
      const processes = await this.#power(key, folders, shape, from, signal);
      this.#resting.add(key);
      return { ...(await this.#started(processes, shape, folders, kernel, signal)), goesOn: "resting" };
    });
  }

  /** The first of its kind is saved, so that the next ones need not boot. */
  async #settle(key: string, state: State): Promise<void> {
    const signal = AbortSignal.timeout(this.#options.bootTimeoutMs);
    await this.#pause(key, state);
    this.#sessions.close(key);
    this.#resting.add(key);
    const name = await this.#kindOf(state.shape, signal);
    await this.#prepared.make(name, (into) => this.#save(state, state.folders, into));
  }

  async #claim(key: string, state: State, spec: ResolvedBoxSpec, folders: BoxFolders): Promise<void> {
    const signal = AbortSignal.timeout(this.#options.bootTimeoutMs);
    this.#resting.delete(key);
    await this.#cgroups.share(key, "fair");
    await this.#machines.introduce(key, spec, folders, state, true, signal);
  }

  async failure(key: string, state: DriverState): Promise<BoxFailure | null> {
    const { supervisor, init, folders } = State.parse(state);
    if ((await isAlive(supervisor)) && (await isAlive(init))) {
      if (this.#resting.has(key)) return null;
      this.#sessions.tend(key, folders);
      await boundConsole(folders);
      await this.#vmm.tend?.(folders);
      return null;
    }
    const figures = await this.#cgroups.stats(key);
    return explainEnd(await consoleTail(folders), figures.oomKills ?? 0, figures);
  }

  async dialGuest(key: string, _state: DriverState, folders: BoxFolders) {
    const session = await this.#sessions.get(key, folders);
    await session.greeted(AbortSignal.timeout(this.#callTimeoutMs));
    return session.open();
  }

  async destroy(key: string, state: DriverState | null): Promise<void> {
    this.#sessions.close(key);
    this.#resting.delete(key);
    const known = state ? State.parse(state) : null;
    await endProcesses(key, markerOf(this.#options.tag, key), known ? [known.init, known.supervisor] : []);
    await this.#cgroups.destroy(key);
    await this.#vmm.forget(key);
  }

  balance(key: string, spec: ResolvedBoxSpec): Promise<void> {
    return this.#cgroups.balance(key, spec.limits.cpuMillis);
  }

  async stats(key: string, state: DriverState): Promise<BoxStats> {
    const { folders, shape } = State.parse(state);
    // The box's limit is its machine's memory; its group holds the monitor besides.
    const { memoryBytes: memoryLimitBytes } = shape;
    const outside = { ...(await this.#cgroups.stats(key)), memoryLimitBytes };
    const session = await this.#sessions.get(key, folders).catch(() => null);
    const text = session?.isGreeted
      ? await session.call("stats", Buffer.alloc(0), AbortSignal.timeout(statsTimeoutMs)).catch(() => null)
      : null;
    // A paused guest says nothing; what its monitor takes is known all the same.
    if (text === null) return { ...outside, processes: null, diskBytes: null };
    return { ...figuresOf(text, outside.cpuMicros), memoryLimitBytes };
  }

  async relink(folders: BoxFolders, spec: ResolvedBoxSpec): Promise<void> {
    const key = folders.root.slice(folders.root.lastIndexOf("/") + 1);
    const session = await this.#greeted(key, folders);
    session.sendSettings(encodeSettings([["r/run/etc/hosts", hostsFile(spec)]]));
    await session.call("setup", Buffer.alloc(0), AbortSignal.timeout(this.#callTimeoutMs));
  }

  async remnants(): Promise<string[]> {
    const prefix = markerOf(this.#options.tag, "");
    const marked = await findByArgument(prefix, true);
    const keys = marked.map(({ argument }) => argument.slice(prefix.length));
    return [...new Set([...keys, ...(await this.#cgroups.keys())])];
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
    await session.greeted(AbortSignal.timeout(this.#callTimeoutMs));
    return session;
  }

  /** Boots or restores the machine and tells it who it is. */
  #run(
    key: string,
    spec: ResolvedBoxSpec,
    folders: BoxFolders,
    shape: MachineShape,
    from: string | null,
    signal: AbortSignal,
  ): Promise<StartedBox> {
    return this.#guarded(key, folders, signal, async () => {
      const processes = await this.#power(key, folders, shape, from, signal);
      const kernel = await this.#machines.introduce(key, spec, folders, processes, from !== null, signal);
      return this.#started(processes, shape, folders, kernel, signal);
    });
  }

  /** Whatever fails leaves nothing running, and is told with the last words of the machine. */
  async #guarded<T>(
    key: string,
    folders: BoxFolders,
    signal: AbortSignal,
    work: () => Promise<T>,
  ): Promise<T> {
    try {
      return await work();
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
    shape: MachineShape,
    from: string | null,
    signal: AbortSignal,
  ): Promise<MachineProcesses> {
    const { kit } = await this.#find(signal);
    return this.#machines.power(key, folders, kit, { shape, from }, signal);
  }

  async #started(
    processes: MachineProcesses,
    shape: MachineShape,
    folders: BoxFolders,
    kernel: string,
    signal: AbortSignal,
  ): Promise<StartedBox> {
    const { report } = await this.#find(signal);
    return {
      driverState: { ...processes, shape, folders, kernel },
      isolation: { driver: this.name, level: report.level, kernel, missing: this.#missing(report) },
    };
  }

  async #pause(key: string, { folders }: State): Promise<void> {
    const session = await this.#greeted(key, folders);
    try {
      await session.call("freeze", Buffer.alloc(0), AbortSignal.timeout(this.#callTimeoutMs));
      await this.#vmm.pause(folders);
    } catch (error) {
      // The guest may have frozen its programs all the same: it must not stay so without anybody knowing.
      await this.#goOn(key, folders).catch(() => undefined); // The first failure tells more.
      throw error;
    }
  }

  async #goOn(key: string, folders: BoxFolders): Promise<void> {
    await this.#vmm.resume(folders);
    const session = await this.#greeted(key, folders);
    await session.call("thaw", clock(), AbortSignal.timeout(this.#callTimeoutMs));
  }

  async #save(state: State, folders: BoxFolders, into: string): Promise<void> {
    const made = await this.#kind(state.shape, AbortSignal.timeout(this.#callTimeoutMs));
    await this.#vmm.save(folders, state, into);
    await copyDisk(diskPath(folders), join(into, diskFile));
    await writeCheckpoint(into, { ...made, kernel: state.kernel });
  }

  async #whyNot(spec: ResolvedBoxSpec, image: GuestImage, from: string): Promise<string | null> {
    const shape = await this.#shape(spec, image);
    const here = await this.#kind(shape, AbortSignal.timeout(this.#callTimeoutMs));
    return whyNotFrom(await readCheckpoint(from), here, shape);
  }

  /** What two machines must have in common for one to go on where the other was. */
  async #kind(shape: MachineShape, signal: AbortSignal): Promise<Omit<Checkpoint, "kernel">> {
    const { kit, report } = await this.#find(signal);
    return { vmm: this.name, version: report.version, kit: kit.digest, shape, format: currentFormat };
  }

  async #kindOf(shape: MachineShape, signal: AbortSignal): Promise<string> {
    return PreparedMachines.nameOf(await this.#kind(shape, signal));
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
    await takeDisk(join(from, diskFile), folders);
    return this.#run(key, spec, folders, saved.shape, from, signal);
  }

  /** The kernel and process 1 of every box, without its disks. */
  async #startTrial(kit: MicrovmKit, signal: AbortSignal): Promise<void> {
    const { scratch, probeOwner } = this.#options;
    await withTrial(scratch, probeOwner, async ({ key, folders }) => {
      try {
        const processes = await this.#machines.power(key, folders, kit, { shape: null, from: null }, signal);
        await this.#machines.untilGreeted(key, folders, processes, signal);
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

const isEmpty = ({ purpose, content }: ResolvedBoxSpec): boolean =>
  purpose === "sandbox" && content.type === "empty";
