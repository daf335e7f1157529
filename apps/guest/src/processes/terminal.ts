import { constants } from "node:os";
import { firstToEnd } from "./first-to-end.ts";
import { Program, programEnd } from "./program.ts";
import { assertFolder, CannotStart, findExecutable, type Command } from "./spawn.ts";

export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

/** The native part is not beside the agent, or does not load on this system. */
export class NoTerminals extends Error {}

/** What we use of the terminal library; with `encoding: null` its data are bytes, not text. */
interface Terminal {
  readonly pid: number;
  onData(listener: (data: string | Buffer) => void): unknown;
  onExit(listener: (end: { exitCode: number; signal?: number }) => void): unknown;
  write(data: string | Buffer): void;
  resize(cols: number, rows: number): void;
  pause(): void;
  resume(): void;
}

/** Starts a program on a terminal of its own. @throws NoTerminals, CannotStart */
export async function startOnTerminal(command: Command, size: TerminalSize): Promise<Program> {
  const library = await import("@lydell/node-pty").catch((cause: unknown) => {
    throw new NoTerminals("This box has no terminal support: the agent's native part does not load.", {
      cause,
    });
  });
  await assertFolder(command.cwd);
  const file = await findExecutable(command);
  let terminal: Terminal;
  try {
    terminal = firstToEnd(() =>
      library.spawn(file, [...command.args], {
        name: command.env["TERM"] ?? "xterm-256color",
        cols: size.cols,
        rows: size.rows,
        cwd: command.cwd,
        env: command.env,
        encoding: null,
      }),
    );
  } catch (cause) {
    throw new CannotStart(`cannot open a terminal: ${cause instanceof Error ? cause.message : ""}`, {
      cause,
    });
  }
  const program = new Program({
    pid: terminal.pid,
    input: {
      write: async (data) => terminal.write(Buffer.from(data)),
      close: () => terminal.write("\u0004"),
    },
    resize: (cols, rows) => terminal.resize(cols, rows),
    sources: [{ pause: () => terminal.pause() as never, resume: () => terminal.resume() as never }],
  });
  terminal.onData((data) => program.deliver("pty", Buffer.from(data as Buffer)));
  terminal.onExit(({ exitCode, signal }) => {
    program.finish(programEnd(exitCode, signal ? signalName(signal) : null));
  });
  return program;
}

function signalName(number: number): string {
  const found = Object.entries(constants.signals).find(([, value]) => value === number);
  return found?.[0] ?? `SIG${number}`;
}
