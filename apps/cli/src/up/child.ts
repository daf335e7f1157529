import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, openSync, readFileSync, statSync, truncateSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { CliError, exitCodes } from "../failure.ts";

export interface ChildSpec {
  readonly name: string;
  /** Program and arguments; arguments are visible to every user, so no secret is among them. */
  readonly command: readonly [string, ...string[]];
  readonly environment: Readonly<Record<string, string>>;
  readonly cwd: string;
  /** Gets everything that the program writes to stderr. */
  readonly logFile: string;
  /** Told of each process as soon as it exists. */
  readonly onSpawn?: (pid: number) => void;
  /** Passes when the program really serves; repeated until then. */
  readonly healthy: (port: number) => Promise<boolean>;
  /** For a start, milliseconds. */
  readonly startTimeoutMs: number;
  /** For an orderly stop, milliseconds; then it is killed. */
  readonly stopTimeoutMs: number;
}

export type ChildEvent =
  | { readonly type: "ready"; readonly pid: number; readonly port: number }
  | {
      readonly type: "exited";
      readonly code: number | null;
      readonly signal: NodeJS.Signals | null;
      readonly retryInMs: number;
    }
  | { readonly type: "failed"; readonly reason: string };

const backoff = { firstMs: 200, mostMs: 5_000 };
/** One that served this long was well; its next end starts from the shortest pause. */
const wellAfterMs = 10_000;
const maxLogBytes = 20 * 1024 * 1024;

/** Delay before start `failures` + 1, in milliseconds: 200 doubling to 5,000. */
export const restartDelayMs = (failures: number): number =>
  Math.min(backoff.mostMs, backoff.firstMs * 2 ** Math.min(failures, 10));

/**
 * Keeps one program running until `stop`. It dies with this process: the channel between them closes.
 */
export class SupervisedChild {
  readonly spec: ChildSpec;
  readonly #onEvent: (event: ChildEvent) => void;
  readonly #stopping = new AbortController();
  #process: ChildProcess | null = null;
  #loop: Promise<void> = Promise.resolve();
  #isReady = false;
  #restarts = 0;

  constructor(spec: ChildSpec, onEvent: (event: ChildEvent) => void = () => undefined) {
    this.spec = spec;
    this.#onEvent = onEvent;
  }

  get pid(): number | null {
    return this.#process?.pid ?? null;
  }
  get isReady(): boolean {
    return this.#isReady;
  }
  get restarts(): number {
    return this.#restarts;
  }

  /**
   * Resolves when the program said that it is ready and its health check passed.
   *
   * @throws CliError PROGRAM_FAILED with the end of its log
   */
  async start(): Promise<void> {
    const child = await this.#launch();
    this.#loop = this.#keepAlive(child);
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#end(this.#process);
    await this.#loop;
    this.#isReady = false;
  }

  async #keepAlive(first: ChildProcess): Promise<void> {
    let child: ChildProcess | null = first;
    let failures = 0;
    while (!this.#stopping.signal.aborted) {
      const startedAt = performance.now();
      if (child) await ended(child);
      this.#isReady = false;
      if (this.#stopping.signal.aborted) return;
      if (child && performance.now() - startedAt > wellAfterMs) failures = 0;
      const retryInMs = restartDelayMs(failures++);
      if (child) this.#onEvent({ type: "exited", code: child.exitCode, signal: child.signalCode, retryInMs });
      // Ends early when stopping; the loop's condition sees it.
      await delay(retryInMs, undefined, { signal: this.#stopping.signal }).catch(() => undefined);
      if (this.#stopping.signal.aborted) return;
      this.#restarts++;
      try {
        child = await this.#launch();
      } catch (error) {
        child = null;
        if (this.#stopping.signal.aborted) return;
        this.#onEvent({ type: "failed", reason: error instanceof Error ? error.message : String(error) });
      }
    }
  }

  async #launch(): Promise<ChildProcess> {
    const [program, ...args] = this.spec.command;
    if ((statSync(this.spec.logFile, { throwIfNoEntry: false })?.size ?? 0) > maxLogBytes)
      truncateSync(this.spec.logFile);
    const log = openSync(this.spec.logFile, "a", 0o600);
    let child: ChildProcess;
    try {
      child = spawn(program, args, {
        cwd: this.spec.cwd,
        env: { ...this.spec.environment },
        // Its own group: Ctrl-C reaches the supervisor only, which then stops all in order.
        detached: true,
        stdio: ["ignore", "pipe", log, "ipc"],
      });
    } finally {
      closeSync(log);
    }
    this.#process = child;
    if (child.pid !== undefined) this.spec.onSpawn?.(child.pid);
    try {
      const port = await this.#awaitReady(child);
      await this.#awaitHealth(child, port);
      this.#isReady = true;
      this.#onEvent({ type: "ready", pid: child.pid ?? 0, port });
      return child;
    } catch (error) {
      await this.#end(child);
      throw error;
    }
  }

  async #awaitReady(child: ChildProcess): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const onError = (error: Error) => reject(this.#failed(error.message));
    const onExit = (code: number | null, signal: NodeJS.Signals | null) =>
      reject(this.#failed(`ended at start with ${signal ?? code}`));
    const onSilence = () => reject(this.#failed(`said nothing for ${this.spec.startTimeoutMs / 1000} s`));
    const timer = setTimeout(onSilence, this.spec.startTimeoutMs);
    child.once("exit", onExit).once("error", onError);
    if (child.stdout) {
      createInterface({ input: child.stdout }).on("line", (line) => {
        const port = readyPort(line);
        if (port !== null) resolve(port);
      });
    }
    // Some programs say it over the channel instead.
    child.on("message", (message) => {
      const said = message as { readonly type?: unknown; readonly port?: unknown } | null;
      if (said?.type === "listening" && typeof said.port === "number") resolve(said.port);
    });
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      child.off("exit", onExit);
    }
  }

  async #awaitHealth(child: ChildProcess, port: number): Promise<void> {
    const endsAt = performance.now() + this.spec.startTimeoutMs;
    let lastError: unknown;
    while (performance.now() < endsAt && !this.#stopping.signal.aborted) {
      if (child.exitCode !== null || child.signalCode !== null)
        throw this.#failed("ended before its health check passed");
      try {
        if (await this.spec.healthy(port)) return;
      } catch (error) {
        lastError = error;
      }
      await delay(50);
    }
    throw this.#failed("does not pass its health check", lastError);
  }

  async #end(child: ChildProcess | null): Promise<void> {
    if (!child?.pid || child.exitCode !== null || child.signalCode !== null) return;
    const end = ended(child);
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), this.spec.stopTimeoutMs);
    await end;
    clearTimeout(timer);
  }

  #failed(what: string, cause?: unknown): CliError {
    const message = `${this.spec.name} ${what}.${tail(this.spec.logFile)}`;
    return new CliError("PROGRAM_FAILED", message, `Read its log: ${this.spec.logFile}`, exitCodes.server, {
      cause,
    });
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
}

function readyPort(line: string): number | null {
  try {
    const value = JSON.parse(line) as { ready?: unknown; port?: unknown };
    return value.ready === true && typeof value.port === "number" ? value.port : null;
  } catch {
    // Some other line; only the ready line is JSON.
    return null;
  }
}

function tail(file: string): string {
  if (!existsSync(file)) return "";
  const lines = readFileSync(file, "utf8").trimEnd().split("\n").slice(-5);
  return lines.join("") === "" ? "" : ` Its log ends with:\n${lines.map((line) => `    ${line}`).join("\n")}`;
}
