import { randomUUID } from "node:crypto";
import type { Environment } from "../environment.ts";
import { AgentError } from "../http.ts";
import { Kernel, languages, type Cell, type CellEvent, type Language } from "./kernel.ts";

/** Each is a program of its own. */
const mostContexts = 32;

export interface Context {
  readonly id: string;
  readonly language: Language;
  readonly cwd: string;
}

interface Entry extends Context {
  kernel: Kernel | null;
  /** The cells asked for so far, one after the other. */
  turn: Promise<unknown>;
}

/** @throws AgentError 400 */
export function languageOf(value: unknown): Language {
  const name = value === undefined || value === null || value === "" ? "python" : String(value).toLowerCase();
  const known: Record<string, Language> = { js: "javascript", ts: "typescript", py: "python", sh: "bash" };
  const found = languages.find((language) => language === name) ?? known[name];
  if (found) return found;
  throw new AgentError(
    "LANGUAGE_UNAVAILABLE",
    400,
    `The language "${name.slice(0, 50)}" is not offered. Use one of: ${languages.join(", ")}.`,
    { language: name.slice(0, 50) },
  );
}

/** Namespaces in which cells of code run; what one cell defines the next ones know. */
export class Contexts {
  readonly #environment: Environment;
  readonly #entries = new Map<string, Entry>();

  constructor(environment: Environment) {
    this.#environment = environment;
  }

  list(): Context[] {
    return [...this.#entries.values()].map(({ id, language, cwd }) => ({ id, language, cwd }));
  }

  async create(language: Language, cwd = this.#environment.workdir): Promise<Context> {
    const entry = this.#add(randomUUID(), language, cwd);
    try {
      entry.kernel = await Kernel.start(language, cwd, this.#environment);
    } catch (error) {
      this.#entries.delete(entry.id);
      throw error;
    }
    return { id: entry.id, language, cwd };
  }

  /** The context of this name, made when it is not there. JavaScript and TypeScript share theirs. */
  named(language: Language, name: string): string {
    const id = `${language === "typescript" ? "javascript" : language}:${name}`;
    if (!this.#entries.has(id)) this.#add(id, language, this.#environment.workdir);
    return id;
  }

  /** @throws AgentError 404 */
  remove(id: string): void {
    this.#get(id).kernel?.close();
    this.#entries.delete(id);
  }

  /** All that it knew is forgotten, and what runs in it ends. @throws AgentError 404 */
  restart(id: string): void {
    const entry = this.#get(id);
    entry.kernel?.close();
    entry.kernel = null;
  }

  /**
   * Runs a cell after those that were asked for before it.
   *
   * @param begin called when its turn has come and its program runs
   * @throws AgentError 400, 404; only before `begin`
   */
  async run(
    id: string,
    cell: Omit<Cell, "language"> & { readonly language?: Language },
    begin: (kernel: Kernel) => (event: CellEvent) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const entry = this.#get(id);
    const before = entry.turn;
    const { promise, resolve } = Promise.withResolvers<void>();
    entry.turn = promise;
    try {
      await before;
      if (signal.aborted) return;
      if (entry.kernel?.hasEnded) entry.kernel = null;
      const { language, cwd } = entry;
      entry.kernel ??= await Kernel.start(language, cwd, this.#environment);
      const emit = begin(entry.kernel);
      const how = await entry.kernel.run({ ...cell, language: cell.language ?? language }, emit, signal);
      if (how === "done") return;
      entry.kernel = null;
      const value = "The program that runs this context ended; the next cell begins with an empty one.";
      emit({ type: "error", name: "ContextEnded", value, traceback: value });
    } finally {
      resolve();
    }
  }

  #add(id: string, language: Language, cwd: string): Entry {
    if (this.#entries.size >= mostContexts)
      throw new AgentError(
        "TOO_MANY_CONTEXTS",
        429,
        `A sandbox has ${mostContexts} contexts at most. Remove one that is not needed.`,
      );
    const entry: Entry = { id, language, cwd, kernel: null, turn: Promise.resolve() };
    this.#entries.set(id, entry);
    return entry;
  }

  #get(id: string): Entry {
    const entry = this.#entries.get(id);
    if (!entry) throw new AgentError("NOT_FOUND", 404, `Context ${id.slice(0, 100)} not found`);
    return entry;
  }
}
