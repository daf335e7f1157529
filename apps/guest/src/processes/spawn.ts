import { spawn, type ChildProcess } from "node:child_process";
import { access, constants, stat } from "node:fs/promises";
import { delimiter, isAbsolute, join, resolve } from "node:path";
import type { Readable, Writable } from "node:stream";
import { setImmediate as turn, setTimeout as delay } from "node:timers/promises";
import { firstToEnd } from "./first-to-end.ts";
import { openPipe, type Pipe } from "./pipes.ts";
import { Program, programEnd, type ProgramInput } from "./program.ts";

export interface Command {
  readonly cmd: string;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly env: Record<string, string>;
  readonly stdin: boolean;
}

/** The command cannot start; `message` says what to change. */
export class CannotStart extends Error {}

/**
 * A program that ended may leave children that hold its output open (`server &`). They are waited
 * for this long, in milliseconds, so that what a pipeline still writes is not lost; then the end is
 * reported all the same, because such a child may live for ever.
 */
const LINGER_MS = 250;

/** Starts a program as leader of its own session and process group. @throws CannotStart */
export async function startProgram(command: Command): Promise<Program> {
  await assertFolder(command.cwd);
  const file = await findExecutable(command);
  const pipes = await openOutputs();
  let child: ChildProcess;
  try {
    child = firstToEnd(() =>
      spawn(file, command.args, {
        argv0: command.cmd,
        cwd: command.cwd,
        env: command.env,
        detached: true,
        stdio: [
          command.stdin ? "pipe" : "ignore",
          pipes?.[0].writerFd ?? "pipe",
          pipes?.[1].writerFd ?? "pipe",
        ],
      }),
    );
    await started(child);
  } catch (cause) {
    for (const pipe of pipes ?? []) pipe.reader.destroy();
    throw new CannotStart(`fork/exec ${file}: ${reasonOf(cause)}`, { cause });
  } finally {
    for (const pipe of pipes ?? []) pipe.closeWriter();
  }
  const stdout = pipes?.[0].reader ?? child.stdout;
  const stderr = pipes?.[1].reader ?? child.stderr;
  const { stdin } = child;
  if (!stdout || !stderr || child.pid === undefined) throw new Error("a started child has outputs");
  const program = new Program({
    pid: child.pid,
    input: stdin ? toInput(stdin) : null,
    resize: null,
    sources: [stdout, stderr],
  });
  stdout.on("data", (data: Buffer) => program.deliver("stdout", data));
  stderr.on("data", (data: Buffer) => program.deliver("stderr", data));
  for (const stream of [stdout, stderr]) stream.on("error", () => stream.destroy());
  reportEnd(child, [stdout, stderr], program);
  return program;
}

/** Both or none, so that a program never has outputs of two kinds. */
async function openOutputs(): Promise<readonly [Pipe, Pipe] | null> {
  const first = await openPipe();
  if (!first) return null;
  const second = await openPipe();
  if (second) return [first, second];
  first.reader.destroy();
  first.closeWriter();
  return null;
}

function reportEnd(child: ChildProcess, outputs: readonly Readable[], program: Program): void {
  let open = true;
  const closed = Promise.all(outputs.map((output) => new Promise((done) => output.once("close", done)))).then(
    () => {
      open = false;
    },
  );
  child.once("exit", async (code, signal) => {
    await Promise.race([closed, delay(LINGER_MS)]);
    // A slow reader keeps output in the kernel; two turns of the loop without a pause read it all.
    for (let quietTurns = 0; open && quietTurns < 2;) {
      if (program.isHeld) {
        await delay(20);
        quietTurns = 0;
      } else {
        await turn();
        quietTurns += 1;
      }
    }
    program.finish(programEnd(code, signal));
  });
}

function started(child: ChildProcess): Promise<void> {
  return new Promise((done, fail) => {
    child.once("spawn", done);
    child.once("error", fail);
  });
}

export async function assertFolder(path: string): Promise<void> {
  const found = await stat(path).catch(() => null);
  if (!found?.isDirectory()) throw new CannotStart(`cwd '${path}' does not exist or is not a folder`);
}

/** Looks the name up in the PATH that the program itself will have, as a shell would. */
export async function findExecutable(command: Command): Promise<string> {
  const { cmd, cwd } = command;
  if (cmd === "") throw new CannotStart("the command is empty");
  const folders = cmd.includes("/") ? [""] : (command.env["PATH"] ?? "").split(delimiter);
  for (const folder of folders) {
    const path = isAbsolute(cmd) ? cmd : resolve(cwd, join(folder, cmd));
    const found = await stat(path).catch(() => null);
    if (!found?.isFile()) continue;
    try {
      await access(path, constants.X_OK);
    } catch {
      if (cmd.includes("/")) throw new CannotStart(`fork/exec ${cmd}: permission denied`);
      continue;
    }
    return path;
  }
  throw new CannotStart(
    cmd.includes("/")
      ? `fork/exec ${cmd}: no such file or directory`
      : `exec: "${cmd}": executable file not found in $PATH`,
  );
}

const reasons: Record<string, string> = {
  EACCES: "permission denied",
  ENOENT: "no such file or directory",
  ENOEXEC: "exec format error",
  E2BIG: "argument list too long",
  EAGAIN: "too many processes: the box's process limit is reached",
  ENOMEM: "not enough memory in the box",
};

function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return reasons[code ?? ""] ?? message;
}

function toInput(stdin: Writable): ProgramInput {
  stdin.on("error", () => {
    // The program closed its input or ended; the write that met it rejects.
  });
  return {
    write: (data) =>
      new Promise((done, fail) => {
        stdin.write(data, (error) => (error ? fail(error) : done()));
      }),
    close: () => stdin.end(),
  };
}
