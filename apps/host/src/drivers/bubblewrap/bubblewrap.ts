import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import type { Socket } from "node:net";
import { release } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { BoxFailure, BoxStats } from "@platform/host-api";
import { pauses, type ResolvedBoxSpec } from "@platform/host-api";
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
import { Cgroups, ownTasks } from "../linux/cgroups.ts";
import { launchBox } from "../linux/launch.ts";
import { boxArguments } from "./arguments.ts";
import { armHostName, type ArmedHostName } from "../linux/host-name.ts";
import { findByArgument, isAlive, endProcesses, type ProcessIdentity } from "../linux/processes.ts";
import { agentCommand, boxLayout, renameEtc, writeEtc, writeHosts } from "../linux/rootfs.ts";
import { seccompFilter } from "../linux/seccomp.ts";
import { dialSocket } from "../linux/socket.ts";
import { boundTerminals, canBoundTerminals } from "../linux/terminals.ts";
import { withTrial } from "../linux/trial.ts";

const Identity = z.object({ pid: z.int(), startTicks: z.string() });
const State = z.object({ supervisor: Identity, init: Identity, oomKillsAtStart: z.number().nullable() });

export interface BubblewrapOptions {
  /** Distinguishes this daemon's boxes from another daemon's: letters and digits, equal at every start. */
  readonly tag: string;
  readonly runsAsRoot: boolean;
  /** Folder for probes, on the file system of the boxes. */
  readonly scratch: string;
  readonly image: GuestImage;
  /** Uid and gid that a probe takes; `null` when not root. */
  readonly probeOwner: { uid: number; gid: number } | null;
}

/**
 * The box's first process ends a little after the agent that the kernel killed, so the counter can
 * rise while the box still looks alive. A kill longer ago than two windows is not the cause of an end.
 */
interface OomHistory {
  readonly now: number | null;
  readonly before: number | null;
  /** When `now` was read, milliseconds since the epoch. */
  readonly at: number;
}
const oomWindowMs = 1_000;

/**
 * Since 5.14 the kernel counts a user's processes in each user namespace by itself, so that a limit set in a box
 * is the box's alone. It stands in for the control group that only root can make.
 */
const countsByNamespace = isAtLeast(release(), 5, 14);

function isAtLeast(version: string, major: number, minor: number): boolean {
  const [first = 0, second = 0] = version.split(".").map(Number);
  return first > major || (first === major && second >= minor);
}

/** The shells name the limit in two ways. */
function countedCommand(command: readonly string[], maxProcesses: number): readonly string[] {
  if (!countsByNamespace) return command;
  const most = String(maxProcesses + ownTasks);
  const script = 'n=$1; shift; ulimit -p "$n" 2>/dev/null || ulimit -u "$n"; exec "$@"';
  return ["/bin/sh", "-c", script, "sh", most, ...command];
}

const installLine = "Install it with: apt-get install bubblewrap";

/** Boxes made of Linux namespaces, one unprivileged uid, control groups and a system-call filter. */
export async function createBubblewrapDriver(options: BubblewrapOptions): Promise<SandboxDriver> {
  const cgroups = new Cgroups(await findCgroups(`boxes-${options.tag}`));
  return new BubblewrapDriver(options, cgroups);
}

class BubblewrapDriver implements SandboxDriver {
  readonly name = "bubblewrap";
  readonly freezer?: NonNullable<SandboxDriver["freezer"]>;
  readonly standby?: NonNullable<SandboxDriver["standby"]>;
  readonly #options: BubblewrapOptions;
  readonly #cgroups: Cgroups;
  readonly #filter = seccompFilter(process.arch);
  readonly #exits = new Map<string, { code: number | null; signal: string | null }>();
  readonly #oomHistory = new Map<string, OomHistory>();
  readonly #hostNames = new Map<string, ArmedHostName>();

  constructor(options: BubblewrapOptions, cgroups: Cgroups) {
    this.#options = options;
    this.#cgroups = cgroups;
    if (cgroups.canFreeze) {
      this.freezer = { pause: (key) => cgroups.pause(key), resume: (key) => cgroups.resume(key) };
    }
    // The kernel lets none but root change a host name from outside the box.
    if (options.runsAsRoot) {
      this.standby = {
        start: (...args) => this.#startStandby(...args),
        claim: (key, _state, spec, folders) => this.#claim(key, spec, folders),
      };
    }
  }

  get #missing(): string[] {
    return [
      ...this.#cgroups.missing.filter((name) => name !== "pids limit" || !countsByNamespace),
      ...(this.#cgroups.canFreeze ? [] : [pauses]),
      ...(this.#options.runsAsRoot ? [] : ["own uid"]),
      ...(this.#filter ? [] : ["system-call filter"]),
      ...(canBoundTerminals ? [] : ["terminal limit"]),
    ];
  }

  async probe(signal: AbortSignal): Promise<DriverProbe> {
    const missing = this.#missing;
    const report = { driver: this.name, level: "namespaces" as const, missing };
    const version = await promisify(execFile)("bwrap", ["--version"], { signal })
      .then(({ stdout }) => stdout.trim().split(" ").at(-1) ?? "")
      .catch(() => null);
    if (version === null) {
      return { ...report, usable: false, version, why: `bwrap is not installed. ${installLine}` };
    }
    try {
      await this.#startTrial();
      return { ...report, usable: true, version, why: null };
    } catch (error) {
      const why =
        `A trial box could not be started: ${(error as Error).message}. ` +
        `Check that user namespaces are allowed (sysctl user.max_user_namespaces) and that others may ` +
        `enter the data, agent and toolchain folders (chmod o+x on each folder above them).`;
      return { ...report, usable: false, version, why };
    }
  }

  async start(
    key: string,
    spec: ResolvedBoxSpec,
    folders: BoxFolders,
    image: GuestImage,
    signal: AbortSignal,
  ): Promise<StartedBox> {
    signal.throwIfAborted();
    const isCounted = !this.#cgroups.missing.includes("pids limit");
    const command = isCounted
      ? agentCommand(image)
      : countedCommand(agentCommand(image), spec.limits.maxProcesses);
    const { supervisor, init, exited } = await this.#launch(key, spec, folders, image, command);
    void exited.then((exit) => this.#exits.set(key, exit));
    const [oomKillsAtStart] = await Promise.all([
      this.#cgroups.oomKills(key),
      canBoundTerminals ? this.#boundTerminals(key, init, supervisor) : null,
    ]);
    return {
      driverState: { supervisor, init, oomKillsAtStart },
      isolation: {
        driver: this.name,
        level: "namespaces",
        kernel: `Linux ${release()}`,
        missing: this.#missing,
      },
    };
  }

  async #boundTerminals(key: string, init: ProcessIdentity, supervisor: ProcessIdentity): Promise<void> {
    try {
      await boundTerminals(init.pid);
    } catch (error) {
      await this.destroy(key, { init, supervisor, oomKillsAtStart: null });
      throw error;
    }
  }

  async #startStandby(...args: Parameters<SandboxDriver["start"]>): Promise<StartedBox> {
    const [key] = args;
    await this.#cgroups.share(key, "leftover");
    const started = await this.start(...args);
    this.#hostNames.set(key, armHostName(State.parse(started.driverState).init));
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
    const { supervisor, init, oomKillsAtStart } = State.parse(state);
    // Init stays while any process of the box does; the supervisor ends with the agent.
    const alive = (await isAlive(supervisor)) && (await isAlive(init));
    const oomKills = await this.#cgroups.oomKills(key);
    const history = this.#oomHistory.get(key) ?? { now: oomKillsAtStart, before: oomKillsAtStart, at: 0 };
    if (alive) {
      if (Date.now() - history.at > oomWindowMs) {
        this.#oomHistory.set(key, { now: oomKills, before: history.now, at: Date.now() });
      }
      return null;
    }
    const { before } = history;
    const exit = this.#exits.get(key) ?? null;
    const evidence = { exit, oomKillsBefore: before, ...(await this.#cgroups.stats(key)) };
    if (oomKills !== null && before !== null && oomKills > before) {
      const detail = "The kernel killed the box's agent for want of memory. Raise its memory limit.";
      return { reason: "oom", detail, evidence };
    }
    if (exit !== null && exit.code !== null && exit.code < 128) {
      return { reason: "exited", detail: `The box's agent ended with exit code ${exit.code}.`, evidence };
    }
    if (exit === null) {
      return { reason: "exited", detail: "The box's agent ended while its host was not looking.", evidence };
    }
    return { reason: "killed", detail: "The box's agent was killed by a signal.", evidence };
  }

  dialGuest(_key: string, _state: DriverState, folders: BoxFolders): Promise<Socket> {
    return dialSocket(join(folders.run, "guest.sock"));
  }

  async destroy(key: string, state: DriverState | null): Promise<void> {
    this.#hostNames.get(key)?.disarm();
    this.#hostNames.delete(key);
    const known = state ? State.parse(state) : null;
    // A frozen process takes its end only once it runs again.
    if (this.#cgroups.canFreeze) await this.#cgroups.thaw(key);
    await endProcesses(key, this.#marker(key), known ? [known.init, known.supervisor] : []);
    await this.#cgroups.destroy(key);
    this.#exits.delete(key);
    this.#oomHistory.delete(key);
  }

  balance(key: string, spec: ResolvedBoxSpec): Promise<void> {
    return this.#cgroups.balance(key, spec.limits.cpuMillis);
  }

  async stats(key: string, state: DriverState): Promise<BoxStats> {
    State.parse(state);
    return { ...(await this.#cgroups.stats(key)), diskBytes: null };
  }

  async relink(folders: BoxFolders, spec: ResolvedBoxSpec): Promise<void> {
    await writeHosts(folders, spec);
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

  async #launch(
    key: string,
    spec: ResolvedBoxSpec,
    folders: BoxFolders,
    image: GuestImage,
    command: readonly string[],
  ) {
    await writeEtc(folders, spec);
    await this.#cgroups.create(key, spec.limits);
    const logFile = join(folders.log, "agent.log");
    try {
      return await launchBox({
        bwrap: "bwrap",
        args: await boxArguments(spec, await boxLayout(spec, folders, image)),
        command,
        marker: this.#marker(key),
        filter: this.#filter,
        owner: folders.owner,
        logFile,
        beforeExec: (pid) => this.#cgroups.join(key, pid),
      });
    } catch (cause) {
      const said = (await readFile(logFile, "utf8").catch(() => "")).trim().slice(-2000);
      await this.destroy(key, null);
      throw new Error(`${(cause as Error).message}${said ? `: ${said}` : ""}`, { cause });
    }
  }

  /** The same folders, arguments and limits as a real box, with /bin/true in place of the agent. */
  #startTrial(): Promise<void> {
    const { scratch, probeOwner, image } = this.#options;
    return withTrial(scratch, probeOwner, async ({ key, spec, folders }) => {
      try {
        const { exited } = await this.#launch(key, spec, folders, image, ["/bin/true"]);
        const { code, signal } = await exited;
        const said = (await readFile(join(folders.log, "agent.log"), "utf8")).trim().slice(-500);
        if (code !== 0) throw new Error(`/bin/true ended with ${signal ?? code} in it${said && `: ${said}`}`);
      } finally {
        await this.destroy(key, null);
      }
    });
  }
}
