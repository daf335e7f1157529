import { mkdir, open, readFile, rename } from "node:fs/promises";
import { dirname, join } from "node:path";
import {
  HostError,
  maxFencedHostnames,
  Standing,
  type FenceReport,
  type FenceRequest,
} from "@platform/host-api";
import { z } from "zod";

const maxEdges = 1_000;
const everything = "*";

const Stored = z.record(z.string(), Standing);

/**
 * What edges must not serve, kept here as witness for the case that they do not hear the control plane.
 * A fence is on disk before it is confirmed: a host that starts again must not let anybody through.
 */
export class Fences {
  readonly #path: string;
  readonly #fences: Map<string, Standing>;
  /** Edge → when it last asked, monotonic milliseconds. */
  readonly #asked = new Map<string, number>();
  /** Who asked before the start is not known. */
  readonly #bornMs = performance.now();
  #writing: Promise<void> = Promise.resolve();

  private constructor(path: string, fences: Map<string, Standing>) {
    this.#path = path;
    this.#fences = fences;
  }

  /** @param folder existing or creatable */
  static async open(folder: string): Promise<Fences> {
    const path = join(folder, "fences.json");
    try {
      return new Fences(
        path,
        new Map(Object.entries(Stored.parse(JSON.parse(await readFile(path, "utf8"))))),
      );
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      return new Fences(path, new Map());
    }
  }

  /** @throws HostError `CONFLICT` when there are fences around too many edges */
  async put({ edge, version, hostnames }: FenceRequest): Promise<FenceReport> {
    const known = this.#fences.get(edge);
    if (!known && this.#fences.size >= maxEdges)
      throw new HostError("CONFLICT", 409, `There are fences around ${maxEdges} edges already.`);
    const names = new Set([...(known?.hostnames ?? []), ...hostnames]);
    const isAll = names.has(everything) || names.size > maxFencedHostnames;
    const fence = {
      version: Math.max(version, known?.version ?? 0),
      hostnames: isAll ? [everything] : [...names],
    };
    const isNew = fence.version !== known?.version || fence.hostnames.length !== known.hostnames.length;
    this.#fences.set(edge, fence);
    // What is the same already may still be on its way to the disk.
    await (isNew ? this.#persist() : this.#writing);
    const now = performance.now();
    return { quietMs: now - Math.max(this.#bornMs, this.#asked.get(edge) ?? 0) };
  }

  /** A question that an edge asks; one that has applied the version has no fence around it any more. */
  ask(edge: string, applied: number): Standing {
    this.#asked.delete(edge);
    this.#asked.set(edge, performance.now());
    if (this.#asked.size > maxEdges) this.#asked.delete(this.#asked.keys().next().value!);
    const fence = this.#fences.get(edge);
    if (!fence) return { version: 0, hostnames: [] };
    if (applied < fence.version) return fence;
    this.#fences.delete(edge);
    // Lost on a crash, it is only forgotten again at the next question.
    void this.#persist().catch(() => undefined);
    return { version: 0, hostnames: [] };
  }

  #persist(): Promise<void> {
    // One after the other, each with what is true when its turn comes.
    this.#writing = this.#writing.catch(() => undefined).then(() => this.#write());
    return this.#writing;
  }

  async #write(): Promise<void> {
    await mkdir(dirname(this.#path), { recursive: true });
    const temporary = `${this.#path}.tmp`;
    const file = await open(temporary, "w", 0o600);
    try {
      await file.writeFile(JSON.stringify(Object.fromEntries(this.#fences)));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, this.#path);
    const folder = await open(dirname(this.#path), "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  }
}
