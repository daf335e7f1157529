import { spawn, type ChildProcess, type SpawnOptions } from "node:child_process";
import { once } from "node:events";
import type { Readable, Writable } from "node:stream";
import { text } from "node:stream/consumers";
import { encodeFile, encodeFrame, type Frame } from "@platform/host-api";
import { serverEnvironment } from "@platform/postgres";
import type { Authority } from "./authority.ts";
import type { Entry } from "./entry.ts";
import type { Manifest } from "./manifest.ts";

export function manifestOf(entry: Entry, engine: Manifest["engine"]): Manifest {
  const { spec, version, database, owner, superuserPassword, username, oldAccounts, users } = entry.state;
  return {
    ...{ format: 1, engine, version, major: spec.version, database, owner, superuserPassword },
    accounts: [...new Set([owner, username, ...[...oldAccounts, ...users].map((one) => one.username)])],
    takenAt: new Date().toISOString(),
  };
}

/** How the data of a server is copied while it runs, and how a server is made of such a copy. */
export interface BackupMethod {
  /** Frames of type `data` and `file`; throws when the copy would not be whole. */
  read(entry: Entry, authority: Authority, signal: AbortSignal): AsyncIterable<Buffer>;
  /**
   * Fills the empty data folder.
   *
   * @param targetTime no later change shall be in it; `null`: all that the frames hold
   */
  unpack(
    entry: Entry,
    manifest: Manifest,
    frames: AsyncIterable<Frame>,
    authority: Authority,
    targetTime: string | null,
  ): Promise<void>;
  /** After a first start that ended: the next one goes to the end of the log, which must be before the moment. */
  untilTheEnd?(entry: Entry, cause: unknown): Promise<void>;
  /** Once the copy serves: asserts that nothing later than `targetTime` is in it, closes the ways in that came along, and opens the entry's own. */
  adopt(entry: Entry, manifest: Manifest, authority: Authority, targetTime?: string | null): Promise<void>;
}

/** Starts a program of the machine's own that reads or writes a stream; what it says is kept for an error. */
export function startProgram(program: string, args: readonly string[], options: SpawnOptions = {}) {
  const child = spawn(program, args, {
    cwd: "/",
    env: serverEnvironment,
    stdio: ["pipe", "pipe", "pipe"],
    ...options,
  });
  const said = text(child.stderr!).then((all) => all.slice(-4000));
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once("close", (code) => resolve(code));
    child.once("error", reject);
  });
  ended.catch(() => undefined); // It reaches whoever waits for the end as well.
  return { child, said, ended };
}

/** What the program writes, as frames. @param accepted exit codes that mean success */
export async function* framesOf(
  program: string,
  args: readonly string[],
  signal: AbortSignal,
  options: SpawnOptions = {},
  accepted: readonly number[] = [0],
): AsyncGenerator<Buffer> {
  const { child, said, ended } = startProgram(program, args, options);
  child.stdin?.end();
  const stop = () => child.kill("SIGKILL");
  signal.addEventListener("abort", stop, { once: true });
  try {
    for await (const chunk of child.stdout as Readable) yield encodeFrame("data", chunk as Buffer);
    const code = await ended;
    signal.throwIfAborted();
    if (code === null || !accepted.includes(code)) throw new Error(`${program} failed: ${await said}`);
  } finally {
    signal.removeEventListener("abort", stop);
    child.kill("SIGKILL");
  }
}

/** Gives the `data` frames to a program; what else comes goes to `other`. */
export async function feed(
  program: string,
  args: readonly string[],
  frames: AsyncIterable<Frame>,
  other: (frame: Frame) => Promise<void> | void,
  options: SpawnOptions = {},
): Promise<void> {
  const { child, said, ended } = startProgram(program, args, options);
  child.stdout?.resume();
  const input = child.stdin as Writable;
  input.on("error", () => {
    // The program ended early; its exit code says so too.
  });
  try {
    for await (const frame of frames) {
      if (frame.type !== "data") await other(frame);
      else if (!input.write(frame.content)) await Promise.race([once(input, "drain"), ended]);
    }
    input.end();
    if ((await ended) !== 0) throw new Error(`${program} failed: ${await said}`);
  } finally {
    child.kill("SIGKILL");
  }
}

/** Runs a program to its end. @throws Error with what it said */
export async function runProgram(
  program: string,
  args: readonly string[],
  options: SpawnOptions = {},
): Promise<void> {
  const { child, said, ended } = startProgram(program, args, options);
  child.stdin?.end();
  child.stdout?.resume();
  if ((await ended) !== 0) throw new Error(`${program} failed: ${await said}`);
}

export const fileFrame = encodeFile;
export type { ChildProcess };
