import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { setImmediate as turn } from "node:timers/promises";
import type { Environment } from "../environment.ts";
import { AgentError } from "../http.ts";
import { assertFolder, findExecutable } from "../processes/spawn.ts";

export const languages = ["python", "javascript", "typescript", "bash"] as const;
export type Language = (typeof languages)[number];

/** What a cell says while it runs; the names are those of the protocol of code interpreters. */
export type CellEvent =
  | { readonly type: "stdout" | "stderr"; readonly text: string }
  | { readonly type: "result"; readonly is_main_result: boolean; readonly text?: string }
  | { readonly type: "error"; readonly name: string; readonly value: string; readonly traceback: string }
  | { readonly type: "number_of_executions"; readonly execution_count: number };

export interface Cell {
  readonly code: string;
  readonly language: Language;
  readonly env: Readonly<Record<string, string>>;
}

/** A program that starts up, milliseconds. */
const startMs = 30_000;
/** A cell that was interrupted and goes on all the same, milliseconds. */
const obeyMs = 2_000;

/** Beside the bundle that this becomes a part of. */
const kernelFile = (name: string) => fileURLToPath(new URL(`kernels/${name}`, import.meta.url));

function commandOf(language: Language): { cmd: string; args: string[] } {
  if (language === "python") return { cmd: "python3", args: ["-u", kernelFile("python.py")] };
  if (language === "bash") return { cmd: "bash", args: ["--noprofile", "--norc", kernelFile("bash.sh")] };
  return { cmd: process.execPath, args: ["--no-warnings", kernelFile("javascript.mjs")] };
}

/** A program that runs the cells of one context, one after the other. */
export class Kernel {
  readonly #child: ChildProcess;
  readonly #language: Language;
  #emit: ((event: CellEvent) => void) | null = null;
  #done: ((how: "done" | "ended") => void) | null = null;
  #ended = false;

  /** @throws AgentError 400 for a folder or a language that is not there */
  static async start(language: Language, cwd: string, environment: Environment): Promise<Kernel> {
    const env = environment.for();
    const { cmd, args } = commandOf(language);
    try {
      await assertFolder(cwd);
      const file = await findExecutable({ cmd, args, cwd, env, stdin: false });
      const child = spawn(file, args, {
        ...{ argv0: cmd, cwd, env, detached: true },
        stdio: ["ignore", "pipe", "pipe", "pipe", "pipe"],
      });
      await once(child, "spawn");
      const kernel = new Kernel(child, language);
      await kernel.#ready(startMs);
      return kernel;
    } catch (cause) {
      if (cause instanceof AgentError) throw cause;
      const message = `${language} cannot start here: ${(cause as Error).message}`;
      throw new AgentError("LANGUAGE_UNAVAILABLE", 400, message, { language });
    }
  }

  private constructor(child: ChildProcess, language: Language) {
    this.#child = child;
    this.#language = language;
    const [, stdout, stderr, events, requests] = child.stdio as [
      null,
      Readable,
      Readable,
      Readable,
      Writable,
    ];
    for (const stream of [stdout, stderr, events, requests]) stream.on("error", () => undefined);
    // What programs of a cell print, and what the shell itself does.
    for (const [name, stream] of [["stdout", stdout] as const, ["stderr", stderr] as const]) {
      stream.setEncoding("utf8");
      stream.on("data", (text: string) => this.#emit?.({ type: name, text }));
    }
    createInterface({ input: events }).on("line", (line) => this.#hear(line));
    child.once("exit", () => {
      this.#ended = true;
      this.#done?.("ended");
    });
  }

  get hasEnded(): boolean {
    return this.#ended;
  }

  /**
   * Runs a cell to its end. It is interrupted when `signal` aborts.
   *
   * @returns `ended` when the program is gone, and with it all that the context knew
   */
  async run(cell: Cell, emit: (event: CellEvent) => void, signal: AbortSignal): Promise<"done" | "ended"> {
    const { promise, resolve } = Promise.withResolvers<"done" | "ended">();
    let force: NodeJS.Timeout | undefined;
    const interrupt = () => {
      this.#signal("SIGINT");
      force = setTimeout(() => this.close(), obeyMs);
    };
    this.#emit = emit;
    this.#done = resolve;
    try {
      if (this.#ended) return "ended";
      (this.#child.stdio[4] as Writable).write(`${this.#request(cell)}\n`);
      if (signal.aborted) interrupt();
      else signal.addEventListener("abort", interrupt, { once: true });
      const how = await promise;
      // What programs of the cell printed may still lie in their pipe.
      for (let turns = 0; turns < 2; turns++) await turn();
      return how;
    } finally {
      clearTimeout(force);
      signal.removeEventListener("abort", interrupt);
      this.#emit = null;
      this.#done = null;
    }
  }

  /** While whoever reads is slow. */
  hold(isHeld: boolean): void {
    for (const index of [1, 2, 3] as const) {
      const stream = this.#child.stdio[index] as Readable;
      if (isHeld) stream.pause();
      else stream.resume();
    }
  }

  close(): void {
    this.#signal("SIGKILL");
  }

  #request({ code, env, language }: Cell): string {
    if (this.#language !== "bash") return JSON.stringify({ code, env, language });
    const quoted = (value: string) => `'${value.replaceAll("'", `'\\''`)}'`;
    const given = Object.entries(env).map(([name, value]) => `export ${name}=${quoted(value)}\n`);
    return Buffer.from(given.join("") + code).toString("base64");
  }

  #hear(line: string): void {
    let event: CellEvent | { readonly type: "ready" } | { readonly type: "done" };
    try {
      event = JSON.parse(line) as typeof event;
    } catch {
      // A program of the cell may write there too; it says nothing to us.
      return;
    }
    if (event.type === "ready" || event.type === "done") this.#done?.("done");
    else this.#emit?.(event);
  }

  async #ready(timeoutMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<string>();
    let said = "";
    this.#emit = (event) => (said += "text" in event ? event.text : "");
    this.#done = resolve;
    const timer = setTimeout(() => resolve("late"), timeoutMs);
    const how = this.#ended ? "ended" : await promise;
    clearTimeout(timer);
    this.#emit = null;
    this.#done = null;
    if (how === "done") return;
    this.close();
    throw new Error(
      how === "late" ? `no answer within ${timeoutMs} ms` : said.trim().slice(-500) || "it ended",
    );
  }

  /** To the group, so that programs of the cell hear it too. */
  #signal(name: NodeJS.Signals): void {
    if (this.#ended || this.#child.pid === undefined) return;
    try {
      process.kill(-this.#child.pid, name);
    } catch {
      // It ended meanwhile.
    }
  }
}
