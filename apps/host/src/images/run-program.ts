import { spawn, type ChildProcessByStdio } from "node:child_process";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";

export type LogStream = "system" | "stdout" | "stderr";
export type OnLine = (stream: LogStream, line: string) => void;

export interface RunOptions {
  readonly signal: AbortSignal;
  readonly onLine?: OnLine;
  /** Every variable of the program; nothing of the daemon's own reaches it. */
  readonly env?: Record<string, string>;
  /** Takes the bytes of its standard output in place of `onLine`. */
  readonly onOutput?: (output: Readable) => Promise<unknown>;
  /** Becomes its standard input. Its failure ends the program, and is thrown. */
  readonly input?: Readable;
}

export interface ProgramEnd {
  readonly code: number | null;
  readonly signal: string | null;
}

/** Folders in which Debian keeps what root runs. */
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * Runs a program of the machine in a process group of its own, which ends with the signal.
 *
 * @throws Error when it cannot be started; AbortError once nothing of it runs, when the signal aborts
 */
export async function runProgram(
  command: string,
  args: readonly string[],
  { signal, onLine, env = {}, onOutput, input }: RunOptions,
): Promise<ProgramEnd> {
  signal.throwIfAborted();
  const child = spawn(command, args, {
    cwd: "/",
    env: { PATH: path, LC_ALL: "C.UTF-8", HOME: "/nonexistent", ...env },
    stdio: [input ? "pipe" : "ignore", "pipe", "pipe"],
    detached: true,
  }) as ChildProcessByStdio<Writable | null, Readable, Readable>;
  const killGroup = () => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  };
  signal.addEventListener("abort", killGroup, { once: true });
  const readLines = (stream: Readable, name: LogStream) => {
    const lines = createInterface({ input: stream });
    lines.on("line", (line) => onLine?.(name, line));
    return new Promise<void>((done) => lines.once("close", done));
  };
  const failures: Error[] = [];
  const fed =
    input && child.stdin
      ? pipeline(input, child.stdin).catch((error: unknown) => {
          // A program that ended early says why itself.
          if ((error as NodeJS.ErrnoException).code === "EPIPE") return;
          failures.push(error as Error);
          killGroup();
        })
      : Promise.resolve();
  const output = onOutput ? onOutput(child.stdout) : readLines(child.stdout, "stdout");
  const errors = readLines(child.stderr, "stderr");
  try {
    const end = await new Promise<ProgramEnd>((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", (code, signalName) => resolve({ code, signal: signalName }));
    });
    await Promise.all([output, errors, fed]);
    signal.throwIfAborted();
    if (failures[0]) throw failures[0];
    return end;
  } finally {
    signal.removeEventListener("abort", killGroup);
    killGroup();
  }
}

/** @throws Error with the end of what it printed, unless it ends with 0 */
export async function runOrThrow(
  command: string,
  args: readonly string[],
  options: RunOptions,
): Promise<string> {
  const printed: string[] = [];
  const end = await runProgram(command, args, {
    ...options,
    onLine: (stream, line) => {
      printed.push(line);
      if (printed.length > 200) printed.shift();
      options.onLine?.(stream, line);
    },
  });
  if (end.code === 0) return printed.join("\n");
  const said = printed.slice(-5).join("; ");
  throw new Error(`${command} ended with ${end.signal ?? end.code}${said ? `: ${said}` : ""}`);
}
