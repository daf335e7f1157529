import { setTimeout as delay } from "node:timers/promises";
import type { GuestService, LogEvent, ServiceExit, ServiceRecord } from "@platform/guest-protocol";
import type { Environment } from "../environment.ts";
import { resolvePath } from "../files/paths.ts";
import type { Program, ProgramEnd } from "../processes/program.ts";
import { signalGroup } from "../processes/signals.ts";
import { CannotStart, startProgram } from "../processes/spawn.ts";
import { ServiceLog } from "./log.ts";

const FIRST_BACKOFF_MS = 200;
const MAX_BACKOFF_MS = 30_000;
/** A run of this length counts as a success: the next failure waits briefly again. In ms. */
const STEADY_MS = 60_000;
/** From SIGTERM to SIGKILL, in ms. */
const STOP_GRACE_MS = 5_000;
/** Runs that are remembered. */
const MAX_EXITS = 20;
/** Exit code of a shell that cannot run what it was told to. */
const CANNOT_RUN = 127;

/** Delay before the next start. @param failures short runs in a row, from 1 */
export const backoffMs = (failures: number): number =>
  Math.min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** Math.min(failures - 1, 20));

/** One named program, from its first start until it is told to stop. */
export class Service {
  readonly spec: GuestService;
  readonly log: ServiceLog;
  readonly #environment: Environment;
  readonly #stop = new AbortController();
  readonly #ends = new Set<(end: LogEvent) => void>();
  #program: Program | null = null;
  #status: ServiceRecord["status"] = "backoff";
  #last: ProgramEnd | null = null;
  #starts = 0;
  #exits: ServiceExit[] = [];
  #startedAt: string | null = null;
  #stoppedAt: string | null = null;
  #running: Promise<void> = Promise.resolve();

  constructor(spec: GuestService, environment: Environment, log: ServiceLog) {
    this.spec = spec;
    this.#environment = environment;
    this.log = log;
  }

  get record(): ServiceRecord {
    const { name, command, cwd, restart } = this.spec;
    return {
      name,
      status: this.#status,
      pid: this.#program?.pid ?? null,
      exitCode: this.#last?.exited ? this.#last.exitCode : null,
      signal: this.#last?.signal ?? null,
      restarts: Math.max(0, this.#starts - 1),
      startedAt: this.#startedAt,
      stoppedAt: this.#stoppedAt,
      command,
      cwd,
      restart,
      exits: this.#exits,
    };
  }

  /** Resolves once the first start succeeded or failed; `record` tells which. */
  async start(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#running = this.#supervise(resolve);
    await promise;
  }

  /** Resolves once the process group is gone. */
  async stop(graceMs = STOP_GRACE_MS): Promise<void> {
    this.#stop.abort();
    const { pid } = this.#program ?? {};
    if (pid !== undefined) {
      signalGroup(pid, "SIGTERM");
      const kill = setTimeout(() => signalGroup(pid, "SIGKILL"), graceMs);
      await this.#running;
      clearTimeout(kill);
      // The leader is gone; what it left behind in its group had the same grace.
      signalGroup(pid, "SIGKILL");
    } else {
      await this.#running;
    }
    this.#status = "stopped";
  }

  signal(name: NodeJS.Signals): boolean {
    return this.#program !== null && signalGroup(this.#program.pid, name);
  }

  /** @returns false when it does not run */
  async writeStdin(data: Buffer): Promise<boolean> {
    if (!this.#program?.input) return false;
    await this.#program.input.write(data);
    return true;
  }

  /** Called once when the service will not run again; at once when that is so already. */
  onEnd(listener: (end: LogEvent) => void): () => void {
    if (this.#status === "exited" || this.#status === "stopped") listener(this.#endEvent());
    else this.#ends.add(listener);
    return () => this.#ends.delete(listener);
  }

  #endEvent(): LogEvent {
    return { exit: { code: this.record.exitCode, signal: this.record.signal } };
  }

  async #supervise(firstStart: () => void): Promise<void> {
    for (let failures = 0; !this.#stop.signal.aborted;) {
      const began = performance.now();
      await this.#run(firstStart);
      firstStart();
      if (this.spec.restart === "never" || this.#stop.signal.aborted) break;
      failures = performance.now() - began >= STEADY_MS ? 1 : failures + 1;
      this.#status = "backoff";
      await delay(backoffMs(failures), undefined, { signal: this.#stop.signal }).catch(() => undefined);
    }
    this.#status = this.#stop.signal.aborted ? "stopped" : "exited";
    for (const listener of this.#ends) listener(this.#endEvent());
    this.#ends.clear();
  }

  async #run(onStarted: () => void): Promise<void> {
    this.#starts += 1;
    this.#startedAt = new Date().toISOString();
    const began = performance.now();
    try {
      this.#program = await startProgram({
        cmd: "/bin/sh",
        args: ["-c", this.spec.command],
        cwd: resolvePath(this.spec.cwd, this.#environment.home, this.#environment.workdir),
        env: this.#environment.for(this.spec.env),
        stdin: true,
      });
      this.#status = "running";
      // Told to stop while it was being started.
      if (this.#stop.signal.aborted) signalGroup(this.#program.pid, "SIGKILL");
      onStarted();
      this.#program.read({
        output: (name, data) => {
          this.log.write(name === "stderr" ? "stderr" : "stdout", data);
          return true;
        },
        end: () => this.log.flush(),
      });
      this.#last = await this.#program.ended;
    } catch (error) {
      if (!(error instanceof CannotStart)) throw error;
      this.log.note(`cannot start: ${error.message}`);
      this.#last = { exitCode: CANNOT_RUN, signal: null, exited: true, status: "", error: error.message };
    } finally {
      this.#program = null;
      this.#stoppedAt = new Date().toISOString();
      const { exitCode, signal } = this.record;
      const exit = { at: this.#stoppedAt, exitCode, signal, ranMs: Math.round(performance.now() - began) };
      this.#exits = [...this.#exits, exit].slice(-MAX_EXITS);
    }
  }
}
