import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { StringDecoder } from "node:string_decoder";
import type { LogLine } from "@platform/guest-protocol";

/** One of two files: together they stay under 8 MiB, so that a flood cannot fill the disk. */
const MAX_FILE_BYTES = 4 * 1024 * 1024;
/** Longer lines are split, in characters. */
const MAX_LINE = 16 * 1024;

/**
 * A service's output as JSON lines, in a file that is moved aside when full. Writing and reading
 * are synchronous, so that "the last lines, then all that follow" has neither gap nor repetition.
 */
export class ServiceLog {
  readonly #path: string;
  readonly #open: Record<"stdout" | "stderr", { decoder: StringDecoder; rest: string }>;
  readonly #followers = new Set<(line: LogLine) => void>();
  #fd: number | null = null;
  #size = 0;
  #lost = 0;

  constructor(folder: string, name: string) {
    mkdirSync(folder, { recursive: true });
    this.#path = join(folder, `${name}.log`);
    this.#open = {
      stdout: { decoder: new StringDecoder("utf8"), rest: "" },
      stderr: { decoder: new StringDecoder("utf8"), rest: "" },
    };
  }

  write(stream: "stdout" | "stderr", data: Buffer): void {
    const open = this.#open[stream];
    const parts = (open.rest + open.decoder.write(data)).split("\n");
    open.rest = parts.pop() ?? "";
    while (open.rest.length > MAX_LINE) {
      parts.push(open.rest.slice(0, MAX_LINE));
      open.rest = open.rest.slice(MAX_LINE);
    }
    this.#append(stream, parts);
  }

  /** A remark of the agent's, such as why a service cannot start. */
  note(line: string): void {
    this.#append("agent", [line]);
  }

  /** Writes what the last run left without a line end. */
  flush(): void {
    for (const stream of ["stdout", "stderr"] as const) {
      const open = this.#open[stream];
      const rest = open.rest + open.decoder.end();
      open.rest = "";
      if (rest !== "") this.#append(stream, [rest]);
    }
  }

  /** @returns the last `count` lines, oldest first */
  tail(count: number): LogLine[] {
    if (count <= 0) return [];
    const lines = readLines(this.#path);
    if (lines.length < count) lines.unshift(...readLines(`${this.#path}.1`));
    return lines.slice(-count).flatMap(parseLine);
  }

  /** @returns function that stops following */
  follow(listener: (line: LogLine) => void): () => void {
    this.#followers.add(listener);
    return () => this.#followers.delete(listener);
  }

  remove(): void {
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = null;
    for (const path of [this.#path, `${this.#path}.1`]) rmSync(path, { force: true });
  }

  #append(stream: LogLine["stream"], parts: readonly string[]): void {
    if (parts.length === 0) return;
    const t = new Date().toISOString();
    const lines: LogLine[] = parts
      .flatMap((part) => splitLong(part.endsWith("\r") ? part.slice(0, -1) : part))
      .map((line) => ({ t, stream, line }));
    if (this.#lost > 0) {
      lines.unshift({ t, stream: "agent", line: `${this.#lost} lines were lost: the disk was full` });
    }
    try {
      for (const line of lines) this.#writeLine(line);
      this.#lost = 0;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "ENOSPC" && code !== "EDQUOT") throw error;
      this.#lost += parts.length;
    }
    for (const listener of this.#followers) for (const line of lines) listener(line);
  }

  #writeLine(line: LogLine): void {
    const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
    if (this.#fd !== null && this.#size + bytes.length > MAX_FILE_BYTES) {
      closeSync(this.#fd);
      this.#fd = null;
      renameSync(this.#path, `${this.#path}.1`);
    }
    if (this.#fd === null) {
      this.#fd = openSync(this.#path, "a", 0o644);
      this.#size = fstatSync(this.#fd).size;
    }
    writeSync(this.#fd, bytes);
    this.#size += bytes.length;
  }
}

function splitLong(line: string): string[] {
  if (line.length <= MAX_LINE) return [line];
  return Array.from({ length: Math.ceil(line.length / MAX_LINE) }, (_, at) =>
    line.slice(at * MAX_LINE, (at + 1) * MAX_LINE),
  );
}

const readLines = (path: string): string[] =>
  existsSync(path)
    ? readFileSync(path, "utf8")
        .split("\n")
        .filter((line) => line !== "")
    : [];

/** A line cut short by a full disk is left out. */
function parseLine(text: string): LogLine[] {
  try {
    return [JSON.parse(text) as LogLine];
  } catch {
    return [];
  }
}
