import { spawn, type ChildProcess } from "node:child_process";
import type { Duplex, Readable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { keepLog } from "./bounded-log.ts";
import { identify, killProcess, type ProcessIdentity } from "./processes.ts";

export interface Launch {
  readonly bwrap: string;
  /** Program and arguments that prepare the process and then become bwrap. */
  readonly prefix?: readonly string[];
  /** Goes to bwrap through a pipe: its own command line is readable in the box. */
  readonly args: readonly string[];
  readonly command: readonly string[];
  /** Argument by which the process is found again when its number was never written down. */
  readonly marker: string;
  readonly filter: Buffer | null;
  readonly owner: { readonly uid: number; readonly gid: number } | null;
  /** Receives what supervisor and agent write, for as long as this daemon lives. */
  readonly logFile: string;
  /** Runs while the process waits, before it becomes bwrap: the place to join control groups. */
  readonly beforeExec: (pid: number) => Promise<void>;
}

export interface Launched {
  /** bwrap outside the box. */
  readonly supervisor: ProcessIdentity;
  /** Process 1 of the box; its end is the end of every process in it. */
  readonly init: ProcessIdentity;
  readonly exited: Promise<{ code: number | null; signal: string | null }>;
}

/** A shell that waits for a line, so that limits are in force before bwrap's first instruction. */
const gate = 'read -r _ <&6 && exec "$0" "$@" 6<&- >&2';

function spawnGate(launch: Launch): ChildProcess {
  const seccomp = launch.filter ? ["--seccomp", "4"] : [];
  return spawn(
    "/bin/sh",
    [
      ...["-c", gate, ...(launch.prefix ?? []), launch.bwrap],
      // A variable of this name does not exist: the argument only marks the process.
      ...["--unsetenv", launch.marker, "--args", "3", ...seccomp, "--info-fd", "5", "--"],
      ...launch.command,
    ],
    {
      detached: true,
      cwd: "/",
      // What prepares it is a program of the machine; bwrap itself is found there too.
      env: launch.prefix ? { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" } : {},
      // Not a file: programs in the box could see its path and fill the machine's disk through it.
      stdio: ["ignore", "ignore", "pipe", "pipe", "pipe", "pipe", "pipe"],
      ...(launch.owner ?? {}),
    },
  );
}

async function childPid(info: Readable): Promise<number> {
  let text = "";
  for await (const chunk of info) {
    text += String(chunk);
    // It is written in pieces; closing the pipe before the last one would kill bwrap by SIGPIPE.
    const pid = /"child-pid":\s*(\d+)[^}]*\}/.exec(text)?.[1];
    if (pid !== undefined) return Number(pid);
  }
  throw new Error("bwrap ended before it made the box");
}

const within = async <T>(promise: Promise<T>, timeoutMs: number, what: string): Promise<T> => {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`${what} took longer than ${timeoutMs} ms`)), timeoutMs);
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
};

/**
 * Starts one box detached, so that it outlives this daemon.
 *
 * @throws Error when bwrap ends or stays silent; nothing of it runs then
 */
export async function launchBox(launch: Launch): Promise<Launched> {
  const child = spawnGate(launch);
  // Every extra descriptor is a pair of sockets, so each end can do both.
  const [, , , args, filter, info, start] = child.stdio as unknown as (Duplex | undefined)[];
  if (!args || !filter || !info || !start) throw new Error("bwrap got no pipes");
  for (const stream of [args, filter, info, start]) stream.on("error", () => undefined); // The exit tells why.
  const logged = child.stderr ? keepLog(child.stderr, launch.logFile) : Promise.resolve();
  logged.catch(() => undefined); // Without a log the box runs all the same.
  const ended = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.once("exit", (code, signal) => resolve({ code, signal }));
    child.once("error", () => resolve({ code: null, signal: null }));
  });
  // Its last words are often why it ended. Programs that outlive the agent may hold the log open.
  const exited = ended.then(async (exit) => {
    await Promise.race([logged, delay(200)]);
    return exit;
  });
  const failed = exited.then(({ code, signal }): never => {
    throw new Error(`bwrap ended with ${signal ?? `exit code ${code}`}`);
  });
  failed.catch(() => undefined);
  let supervisor: ProcessIdentity | null = null;
  try {
    const { pid } = child;
    if (pid === undefined) throw new Error("no process could be started");
    supervisor = await identify(pid);
    if (!supervisor) throw new Error("the box's first process ended at once");
    await launch.beforeExec(pid);
    args.end(launch.args.map((value) => `${value}\0`).join(""));
    filter.end(launch.filter ?? Buffer.alloc(0));
    start.end("\n");
    const init = await identify(
      await within(Promise.race([childPid(info), failed]), 10_000, "making the box"),
    );
    // A short command may be over before it could be looked at; how it ended is the supervisor's exit.
    return { supervisor, init: init ?? supervisor, exited };
  } catch (error) {
    if (supervisor) await killProcess(supervisor);
    throw error;
  } finally {
    for (const stream of [args, filter, info, start]) stream.destroy();
  }
}
