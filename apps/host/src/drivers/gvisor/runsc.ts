import { spawn } from "node:child_process";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Writable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { keepLog } from "../linux/bounded-log.ts";
import { identify, killProcess } from "../linux/processes.ts";

/** How system calls of the box are caught; the first is faster, the second works in more places. */
export const platforms = ["systrap", "ptrace"] as const;
export type Platform = (typeof platforms)[number];

export interface Runsc {
  readonly program: string;
  /** Holds what the runtime notes about its boxes; short, as a socket lies in it. */
  readonly stateFolder: string;
}

/**
 * No network but the box's own loopback; the two sockets of the run folder are the only way across.
 * Limits are set by us, before the first instruction. The machine's folders are looked at anew by
 * every call, as this host reads and writes them too while a box stands still.
 */
export const flags = ({ stateFolder }: Runsc, platform: Platform): string[] => [
  ...[`--root=${stateFolder}`, `--platform=${platform}`],
  ..."--network=none --host-uds=all --ignore-cgroups --overlay2=none --file-access-mounts=shared".split(" "),
];

/** A shell that waits for a line, so that limits are in force before the runtime's first instruction. */
const gate = 'read -r _ <&3 && exec "$0" "$@" 3<&- >&2';
const searchPath = "/usr/sbin:/usr/bin:/sbin:/bin";

export interface Call {
  readonly runsc: Runsc;
  readonly args: readonly string[];
  /** Receives what runtime and box write. */
  readonly logFile: string;
  /** Runs while the process waits, before it becomes the runtime: the place to join control groups. */
  readonly beforeExec: (pid: number) => Promise<void>;
  readonly timeoutMs: number;
}

/**
 * Runs the runtime until it ends: at once for a box that goes on without it, else with the box.
 *
 * @returns its exit code; `null` when a signal ended it
 * @throws Error when it takes too long; it is killed then, its box is not
 */
export async function callRunsc(call: Call): Promise<number | null> {
  const child = spawn("/bin/sh", ["-c", gate, call.runsc.program, ...call.args], {
    // Not a file: programs in the box could fill the machine's disk through it.
    ...{ detached: true, cwd: "/", env: { PATH: searchPath }, stdio: ["ignore", "ignore", "pipe", "pipe"] },
  });
  const logged = child.stderr ? keepLog(child.stderr, call.logFile) : Promise.resolve();
  logged.catch(() => undefined); // Without a log the box runs all the same.
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once("exit", (code) => void Promise.race([logged, delay(200)]).finally(() => resolve(code)));
    child.once("error", reject);
  });
  ended.catch(() => undefined); // Awaited below, unless the gate was never opened.
  const start = child.stdio[3] as Writable;
  start.on("error", () => undefined); // The exit tells why.
  const self = child.pid === undefined ? null : await identify(child.pid);
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => late.reject(new Error(`the runtime took longer than ${call.timeoutMs} ms`)),
    call.timeoutMs,
  );
  try {
    if (self) await call.beforeExec(self.pid);
    start.end("\n");
    return await Promise.race([ended, late.promise]);
  } catch (error) {
    if (self) await killProcess(self);
    throw error;
  } finally {
    clearTimeout(timer);
    start.destroy();
  }
}

/** Removes what the runtime noted about a box whose processes have ended. */
export async function forgetBox({ stateFolder }: Runsc, id: string): Promise<void> {
  const names = await readdir(stateFolder).catch(() => []);
  const mine = names.filter((name) => name.startsWith(`${id}_`) || name === `runsc-${id}.sock`);
  const paths = mine.map((name) => join(stateFolder, name));
  // Where its socket goes when the state folder's path is too long for one.
  const elsewhere = ["/var/run", "/tmp"].map((folder) => join(folder, `runsc-${id}.sock`));
  for (const path of [...paths, ...elsewhere]) await rm(path, { force: true });
}
