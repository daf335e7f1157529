import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import type { Socket } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import type { BoxFailure, BoxLimits, BoxStats } from "@platform/host-api";
import type { ResolvedBoxSpec } from "@platform/host-api";
import { z } from "zod";
import type {
  BoxFolders,
  DriverProbe,
  DriverState,
  GuestImage,
  SandboxDriver,
  StartedBox,
} from "../driver.ts";
import { findCgroups } from "../linux/cgroup-layout.ts";
import { Cgroups } from "../linux/cgroups.ts";
import { findByArgument, identify, isAlive, endProcesses } from "../linux/processes.ts";
import type { ArmedHostName } from "../linux/host-name.ts";
import { agentNode, boxLayout, renameEtc, writeEtc, writeHosts } from "../linux/rootfs.ts";
import { dialSocket } from "../linux/socket.ts";
import { withTrial, type Trial } from "../linux/trial.ts";
import { noteOf, writeBundle } from "./bundle.ts";
import { armHostNameIn, canSetHostName, writeHostNameProgram } from "./host-name.ts";
import { agentAsFirst, trialAsFirst } from "./init.ts";
import { relieve } from "./relief.ts";
import { callRunsc, flags, forgetBox, platforms, type Platform, type Runsc } from "./runsc.ts";

const Identity = z.object({ pid: z.int(), startTicks: z.string() });
const State = z.object({
  /** The box's kernel; every process of the box ends with it. */
  sandbox: Identity,
  /** Opens files of the mounted folders for it. */
  gofer: Identity,
  oomKillsAtStart: z.number().nullable(),
  /** What it takes to relieve a box that is out of memory; absent for one that an older daemon made. */
  relief: z.object({ guestSocket: z.string(), memoryBytes: z.number() }).optional(),
});
type State = z.output<typeof State>;

export interface GvisorOptions {
  /** Distinguishes this daemon's boxes from another daemon's: letters and digits, equal at every start. */
  readonly tag: string;
  readonly runsAsRoot: boolean;
  /** The runtime's program; `null` when it is nowhere to be found. */
  readonly runsc: string | null;
  /** This driver's own folder: what boxes are made from and what the runtime notes about them. */
  readonly folder: string;
  /** Folder for probes, on the file system of the boxes. */
  readonly scratch: string;
  readonly image: GuestImage;
  /** Uid and gid that a probe takes; `null` when not root. */
  readonly probeOwner: { uid: number; gid: number } | null;
}

interface Proved {
  readonly platform: Platform;
  /** Kernel as a process of a box sees it. */
  readonly kernel: string;
}

const startTimeoutMs = 60_000;
/** A box that is refused memory may have a little left. */
const nearLimitBytes = 4 * 1024 * 1024;

/** Beyond the app's own: process 1, and the agent with its threads. */
const ownTasks = 24;
const measureOf = ({ maxProcesses, memoryBytes }: BoxLimits) => ({
  ...{ maxTasks: maxProcesses + ownTasks, memoryBytes },
});
/**
 * Tasks of the machine for the box's kernel and what runs under it. It ends when it cannot get one,
 * so the box's own kernel reaches its limit first.
 */
const machineTasks = ({ maxProcesses }: BoxLimits) => 256 + 8 * (maxProcesses + ownTasks);

/** Boxes whose system calls are served by a kernel of their own that runs as an ordinary process. */
export async function createGvisorDriver(options: GvisorOptions): Promise<SandboxDriver> {
  // Boxes' own uids pass through on the way to their roots.
  await mkdir(join(options.folder, "bundles"), { recursive: true, mode: 0o711 });
  await mkdir(join(options.folder, "run"), { recursive: true, mode: 0o700 });
  const hostNameProgram = canSetHostName ? await writeHostNameProgram(options.folder) : null;
  const cgroups = new Cgroups(await findCgroups(`boxes-${options.tag}`));
  return new GvisorDriver(options, cgroups, hostNameProgram);
}

class GvisorDriver implements SandboxDriver {
  readonly name = "gvisor";
  readonly freezer?: NonNullable<SandboxDriver["freezer"]>;
  readonly standby?: NonNullable<SandboxDriver["standby"]>;
  readonly #options: GvisorOptions;
  readonly #cgroups: Cgroups;
  readonly #hostNames = new Map<string, ArmedHostName>();
  readonly #relieving = new Map<string, Promise<void>>();
  /** At the last two looks. */
  readonly #refusals = new Map<string, readonly [number, number]>();
  /** Programs ended for want of memory in boxes that went on; on top of the kernel's own counter. */
  readonly #endedForMemory = new Map<string, number>();
  #version = "";
  #proved: Proved | null = null;

  /** @param hostNameProgram `null` where there is none for this kind of machine */
  constructor(options: GvisorOptions, cgroups: Cgroups, hostNameProgram: string | null) {
    this.#options = options;
    this.#cgroups = cgroups;
    if (cgroups.canFreeze) {
      this.freezer = { pause: (key) => cgroups.pause(key), resume: (key) => cgroups.resume(key) };
    }
    if (hostNameProgram !== null) {
      this.standby = {
        start: (...args) => this.#startStandby(hostNameProgram, ...args),
        claim: (key, _state, spec, folders) => this.#claim(key, spec, folders),
      };
    }
  }

  get #missing(): string[] {
    return this.#cgroups.missing;
  }

  async probe(signal: AbortSignal): Promise<DriverProbe> {
    const report = { driver: this.name, level: "userspace-kernel" as const, missing: this.#missing };
    const no = (why: string, version: string | null) => ({ ...report, usable: false, version, why });
    const { runsc, runsAsRoot } = this.#options;
    if (!runsc) return no("runsc is not there. Set RUNSC_BIN to its path, or put it on the PATH.", null);
    const version = await promisify(execFile)(runsc, ["--version"], { signal, env: {} })
      .then(({ stdout }) => /version (\S+)/.exec(stdout)?.[1] ?? "unknown")
      .catch(() => null);
    if (version === null) return no(`${runsc} does not run. Set RUNSC_BIN to one for this machine.`, null);
    this.#version = version.replace(/^0\.0~/, "");
    if (!runsAsRoot) return no("Boxes of this kind need a host daemon that runs as root.", version);
    const reasons: string[] = [];
    for (const platform of platforms) {
      try {
        this.#proved = await this.#startTrial(platform);
        return { ...report, usable: true, version: `${this.#version} (${platform})`, why: null };
      } catch (error) {
        reasons.push(`${platform}: ${(error as Error).message}`);
      }
    }
    const why =
      `No trial box could be started: ${reasons.join("; ")}. Check that others may enter the data, agent ` +
      `and toolchain folders (chmod o+x on each folder above them) and that user namespaces are allowed.`;
    return no(why, version);
  }

  async start(
    key: string,
    spec: ResolvedBoxSpec,
    folders: BoxFolders,
    image: GuestImage,
    signal: AbortSignal,
  ): Promise<StartedBox> {
    signal.throwIfAborted();
    const proved = this.#proved;
    if (!proved) throw new Error("no trial box could be started here");
    try {
      const run = ["run", "--detach", `--pid-file=${join(this.#bundle(key), "pid")}`];
      const command = agentAsFirst(measureOf(spec.limits), agentNode(image));
      const code = await this.#call(key, spec, folders, image, proved.platform, command, run);
      if (code !== 0) throw new Error(`the runtime ended with ${code ?? "a signal"}`);
      const relief = { guestSocket: guestSocket(folders), memoryBytes: spec.limits.memoryBytes };
      const driverState = { ...(await this.#observe(key)), relief };
      // Not sooner: while it boots there is no agent that could help.
      await this.#cgroups.holdAtLimit(key, true);
      const kernel = `${proved.kernel} (gVisor ${this.#version}, ${proved.platform})`;
      return {
        driverState,
        isolation: { driver: this.name, level: "userspace-kernel", kernel, missing: this.#missing },
      };
    } catch (cause) {
      const said = await lastWords(folders);
      await this.destroy(key, null);
      throw new Error(`${(cause as Error).message}${said && `: ${said}`}`, { cause });
    }
  }

  async #startStandby(
    hostNameProgram: string,
    ...args: Parameters<SandboxDriver["start"]>
  ): Promise<StartedBox> {
    const [key] = args;
    const { runsc } = this.#options;
    if (!runsc) throw new Error("the runtime is not there");
    await this.#cgroups.share(key, "leftover");
    const started = await this.start(...args);
    this.#hostNames.set(key, await armHostNameIn(this.#runsc(runsc), this.#id(key), hostNameProgram));
    return started;
  }

  async #claim(key: string, spec: ResolvedBoxSpec, folders: BoxFolders): Promise<void> {
    const hostName = this.#hostNames.get(key);
    if (!hostName) throw new Error("this box does not wait to be claimed");
    this.#hostNames.delete(key);
    await Promise.all([
      hostName.set(spec.hostname),
      renameEtc(folders, spec),
      this.#cgroups.share(key, "fair"),
    ]);
  }

  async failure(key: string, state: DriverState): Promise<BoxFailure | null> {
    const { sandbox, gofer, oomKillsAtStart, relief } = State.parse(state);
    if (relief && (await this.#cgroups.isHeld(key))) this.#relieve(key, relief);
    const wasRefused = await this.#wasRefused(key);
    const oomKills = await this.#cgroups.oomKills(key);
    const stats = await this.#cgroups.stats(key);
    // One process of a box killed by the kernel leaves the others waiting for it without end.
    if (oomKills !== null && oomKillsAtStart !== null && oomKills > oomKillsAtStart) {
      const detail = "The kernel killed the box for want of memory. Raise its memory limit.";
      return { reason: "oom", detail, evidence: { oomKillsBefore: oomKillsAtStart, ...stats } };
    }
    const [hasSandbox, hasGofer] = [await isAlive(sandbox), await isAlive(gofer)];
    if (hasSandbox && hasGofer) return null;
    const exitCode = await notedExit(noteOf(this.#bundle(key)));
    const evidence = { exitCode, hasSandbox, hasGofer, oomKillsBefore: oomKillsAtStart, ...stats };
    if (wasRefused && (exitCode === null || exitCode >= 128)) {
      const detail = "The box ended while the kernel refused it more memory. Raise its memory limit.";
      return { reason: "oom", detail, evidence };
    }
    const refusedTasks = await this.#cgroups.taskRefusals(key);
    if (refusedTasks && (exitCode === null || exitCode >= 128)) {
      const detail =
        "The box ended while the kernel refused it more processes. Find what starts them, or raise its limit.";
      return { reason: "too_many_processes", detail, evidence: { ...evidence, refusedTasks } };
    }
    if (exitCode !== null && exitCode < 128) {
      return { reason: "exited", detail: `The box's agent ended with exit code ${exitCode}.`, evidence };
    }
    const detail = exitCode === null ? "The box was killed from outside." : "The box's agent was killed.";
    return { reason: "killed", detail, evidence };
  }

  dialGuest(_key: string, _state: DriverState, folders: BoxFolders): Promise<Socket> {
    return dialSocket(guestSocket(folders));
  }

  /** Whether the kernel refused the box memory since the last look but one, while it was at its limit. */
  async #wasRefused(key: string): Promise<boolean> {
    const [count, { memoryPeakBytes, memoryLimitBytes }] = [
      await this.#cgroups.refusals(key),
      await this.#cgroups.stats(key),
    ];
    if (count === null || memoryPeakBytes === null || memoryLimitBytes === null) return false;
    const [before, last] = this.#refusals.get(key) ?? [count, count];
    this.#refusals.set(key, [last, count]);
    const isAtLimit = memoryPeakBytes >= memoryLimitBytes - nearLimitBytes;
    return this.#relieving.has(key) || (isAtLimit && count > before);
  }

  /** Goes on beside the host's looks at the box; it has an end of its own. */
  #relieve(key: string, relief: NonNullable<State["relief"]>): void {
    if (this.#relieving.has(key)) return;
    const done = relieve(this.#cgroups, key, relief)
      .then((ended) => void this.#endedForMemory.set(key, (this.#endedForMemory.get(key) ?? 0) + ended))
      .catch(() => undefined) // The box ended meanwhile, which the next look tells.
      .finally(() => this.#relieving.delete(key));
    this.#relieving.set(key, done);
  }

  async destroy(key: string, state: DriverState | null): Promise<void> {
    this.#hostNames.get(key)?.disarm();
    this.#hostNames.delete(key);
    this.#endedForMemory.delete(key);
    this.#refusals.delete(key);
    const known = state ? State.parse(state) : null;
    // A frozen process takes its end only once it runs again.
    if (this.#cgroups.canFreeze) await this.#cgroups.thaw(key);
    await endProcesses(key, this.#marker(key), known ? [known.sandbox, known.gofer] : []);
    await this.#cgroups.destroy(key);
    if (this.#options.runsc) await forgetBox(this.#runsc(this.#options.runsc), this.#id(key));
    await rm(this.#bundle(key), { recursive: true, force: true });
  }

  balance(key: string, spec: ResolvedBoxSpec): Promise<void> {
    return this.#cgroups.balance(key, spec.limits.cpuMillis);
  }

  async stats(key: string, state: DriverState): Promise<BoxStats> {
    State.parse(state);
    // Whoever saw a program end asks why at once, and is told the count with it.
    await this.#relieving.get(key);
    const stats = await this.#cgroups.stats(key);
    const oomKills = stats.oomKills === null ? null : stats.oomKills + (this.#endedForMemory.get(key) ?? 0);
    // The machine's kernel sees tasks of the box's kernel, not the box's processes.
    return { ...stats, oomKills, processes: null, diskBytes: null };
  }

  async relink(folders: BoxFolders, spec: ResolvedBoxSpec): Promise<void> {
    await writeHosts(folders, spec);
  }

  async remnants(): Promise<string[]> {
    const prefix = `${this.#marker("")}/`;
    const marked = await findByArgument(prefix, true);
    const keys = marked.map(({ argument }) => argument.slice(prefix.length));
    const bundles = await readdir(join(this.#options.folder, "bundles")).catch(() => []);
    return [...new Set([...keys, ...bundles, ...(await this.#cgroups.keys())])];
  }

  #bundle(key: string): string {
    return join(this.#options.folder, "bundles", key);
  }

  /** An argument of every process that the runtime starts for a box. */
  #marker(key: string): string {
    return `--bundle=${this.#bundle(key)}`;
  }

  /** Of one length: the runtime takes the beginning of a name for the name. */
  #id(key: string): string {
    return createHash("sha256").update(`${this.#options.tag}.${key}`).digest("hex").slice(0, 24);
  }

  #runsc(program: string): Runsc {
    return { program, stateFolder: join(this.#options.folder, "run") };
  }

  /** Makes limits and bundle, and runs the runtime under them. */
  async #call(
    key: string,
    spec: ResolvedBoxSpec,
    folders: BoxFolders,
    image: GuestImage,
    platform: Platform,
    command: readonly string[],
    run: readonly string[],
  ): Promise<number | null> {
    const { runsc: program } = this.#options;
    const { owner } = folders;
    if (!program || !owner) throw new Error("boxes of this kind need a host daemon that runs as root");
    await writeEtc(folders, spec);
    const layout = await boxLayout(spec, folders, image);
    await writeBundle({ folder: this.#bundle(key), spec, layout, owner, command });
    await this.#cgroups.create(key, spec.limits, machineTasks(spec.limits));
    const runsc = this.#runsc(program);
    return callRunsc({
      runsc,
      args: [...flags(runsc, platform), ...run, this.#marker(key), this.#id(key)],
      logFile: join(folders.log, "agent.log"),
      beforeExec: (pid) => this.#cgroups.join(key, pid),
      timeoutMs: startTimeoutMs,
    });
  }

  async #observe(key: string) {
    const pid = Number(await readFile(join(this.#bundle(key), "pid"), "utf8"));
    const marked = await findByArgument(this.#marker(key));
    const sandbox = await identify(pid);
    const gofer = marked.find(({ process }) => process.pid !== pid)?.process;
    if (!sandbox || !gofer) throw new Error("the box ended at once");
    const oomKillsAtStart = await this.#cgroups.oomKills(key);
    return { sandbox, gofer, oomKillsAtStart };
  }

  /** The same folders, arguments and limits as a real box, telling of its kernel in place of the agent. */
  #startTrial(platform: Platform): Promise<Proved> {
    const { scratch, probeOwner, image } = this.#options;
    return withTrial(scratch, probeOwner, async ({ key, spec, folders }: Trial) => {
      try {
        const command = trialAsFirst(measureOf(spec.limits), agentNode(image));
        const code = await this.#call(key, spec, folders, image, platform, command, ["run"]);
        const said = await lastWords(folders);
        const kernel = /^Linux version (\S+)/m.exec(said)?.[1];
        if (code !== 0 || kernel === undefined)
          throw new Error(`it ended with ${code ?? "a signal"}: ${said}`);
        return { platform, kernel: `Linux ${kernel}` };
      } finally {
        await this.destroy(key, null);
      }
    });
  }
}

const guestSocket = (folders: BoxFolders): string => join(folders.run, "guest.sock");

async function lastWords(folders: BoxFolders): Promise<string> {
  const text = await readFile(join(folders.log, "agent.log"), "utf8").catch(() => "");
  return text.trim().slice(-2000);
}

async function notedExit(path: string): Promise<number | null> {
  const text = await readFile(path, "latin1").catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  });
  return /^\d{1,3}\n$/.test(text) ? Number(text) : null;
}
