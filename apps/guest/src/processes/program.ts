import type { Readable } from "node:stream";

export type OutputName = "stdout" | "stderr" | "pty";

/** How a program ended, in the words of Go's os.ProcessState, which envd's clients read. */
export interface ProgramEnd {
  /** -1 when a signal ended it. */
  readonly exitCode: number;
  readonly signal: string | null;
  readonly exited: boolean;
  /** `exit status 3` or `signal: killed` */
  readonly status: string;
  readonly error: string | undefined;
}

/** Whoever reads a program's output. */
export interface Reader {
  /** @returns false to be sent nothing more until `Program.resume` is called */
  output(name: OutputName, data: Buffer): boolean;
  end(end: ProgramEnd): void;
}

export interface ProgramInput {
  /** Resolves when the program, or the kernel for it, took the bytes. */
  write(data: Uint8Array): Promise<void>;
  close(): void;
}

const signalWords: Record<string, string> = {
  SIGHUP: "hangup",
  SIGINT: "interrupt",
  SIGQUIT: "quit",
  SIGILL: "illegal instruction",
  SIGTRAP: "trace/breakpoint trap",
  SIGABRT: "aborted",
  SIGBUS: "bus error",
  SIGFPE: "floating point exception",
  SIGKILL: "killed",
  SIGUSR1: "user defined signal 1",
  SIGSEGV: "segmentation fault",
  SIGUSR2: "user defined signal 2",
  SIGPIPE: "broken pipe",
  SIGALRM: "alarm clock",
  SIGTERM: "terminated",
};

export function programEnd(code: number | null, signal: string | null): ProgramEnd {
  if (signal !== null) {
    const status = `signal: ${signalWords[signal] ?? signal}`;
    return { exitCode: -1, signal, exited: false, status, error: status };
  }
  const status = `exit status ${code ?? 0}`;
  return { exitCode: code ?? 0, signal: null, exited: true, status, error: code ? status : undefined };
}

/**
 * A running program and those who read its output. It is read at the pace of the slowest reader,
 * so that no buffer grows; with no reader, output is dropped.
 */
export class Program {
  readonly pid: number;
  readonly input: ProgramInput | null;
  readonly resize: ((cols: number, rows: number) => void) | null;
  /** Resolves with the end, after the last output was handed to every reader. */
  readonly ended: Promise<ProgramEnd>;
  readonly #sources: readonly Pausable[];
  readonly #readers = new Map<Reader, { full: boolean }>();
  #end: ProgramEnd | null = null;
  #resolveEnd: (end: ProgramEnd) => void;

  constructor(parts: {
    pid: number;
    input: ProgramInput | null;
    resize: ((cols: number, rows: number) => void) | null;
    sources: readonly Pausable[];
  }) {
    this.pid = parts.pid;
    this.input = parts.input;
    this.resize = parts.resize;
    this.#sources = parts.sources;
    const { promise, resolve } = Promise.withResolvers<ProgramEnd>();
    this.ended = promise;
    this.#resolveEnd = resolve;
  }

  /** True while a reader is full: output may still lie in the kernel. */
  get isHeld(): boolean {
    return [...this.#readers.values()].some((state) => state.full);
  }

  /** @returns function that stops reading */
  read(reader: Reader): () => void {
    if (this.#end) {
      reader.end(this.#end);
      return () => undefined;
    }
    this.#readers.set(reader, { full: false });
    return () => {
      this.#readers.delete(reader);
      this.#flow();
    };
  }

  resume(reader: Reader): void {
    const state = this.#readers.get(reader);
    if (state) state.full = false;
    this.#flow();
  }

  /** For the one that started the program. */
  deliver(name: OutputName, data: Buffer): void {
    for (const [reader, state] of this.#readers) {
      if (!reader.output(name, data)) state.full = true;
    }
    this.#flow();
  }

  /** For the one that started the program. */
  finish(end: ProgramEnd): void {
    if (this.#end) return;
    this.#end = end;
    for (const reader of this.#readers.keys()) reader.end(end);
    this.#readers.clear();
    this.#flow();
    this.#resolveEnd(end);
  }

  #flow(): void {
    for (const source of this.#sources) {
      if (this.isHeld) source.pause();
      else source.resume();
    }
  }
}

export type Pausable = Pick<Readable, "pause" | "resume">;
