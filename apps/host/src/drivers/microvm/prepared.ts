import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import type { Checkpoint } from "./checkpoint.ts";

/** Kept at once; each is about as large as the memory that its machine used. */
const mostKept = 8;

/**
 * Machines that were saved once their agent had answered, before anything of a caller was in them: others of
 * their kind go on from there in place of a boot. What makes one machine another than its copies is told to
 * each when it is claimed.
 */
export class PreparedMachines {
  readonly #folder: string;
  readonly #making = new Set<string>();

  /** @param folder of this alone */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Everything that two machines must have in common. */
  static nameOf(kind: Omit<Checkpoint, "kernel">): string {
    const { vmm, version, kit, format, shape } = kind;
    const { memoryBytes, cores, diskBytes, rootDisk, toolsDisk } = shape;
    const parts = [vmm, version, kit, format, memoryBytes, cores, diskBytes, rootDisk, toolsDisk];
    return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 32);
  }

  /** Folder of the saved machine, or `null`. */
  async find(name: string): Promise<string | null> {
    const folder = join(this.#folder, name);
    if (!(await stat(folder).catch(() => null))) return null;
    const now = new Date();
    await utimes(folder, now, now); // Those used last are kept.
    return folder;
  }

  /** Saves one unless it is there or being saved; a failure leaves nothing. */
  async make(name: string, save: (into: string) => Promise<void>): Promise<void> {
    if (this.#making.has(name) || (await this.find(name))) return;
    this.#making.add(name);
    try {
      await mkdir(this.#folder, { recursive: true, mode: 0o711 });
      await this.#removeOld(name);
      const half = await mkdtemp(join(this.#folder, "half-"));
      try {
        await save(half);
        await rename(half, join(this.#folder, name));
      } finally {
        await rm(half, { recursive: true, force: true });
      }
    } finally {
      this.#making.delete(name);
    }
  }

  /** Also what a daemon left that died half-way: this one is the only one on the folder. */
  async #removeOld(wanted: string): Promise<void> {
    const isLeft = (name: string) => name.startsWith("half-") && this.#making.size === 1;
    const found: { name: string; usedAt: number }[] = [];
    for (const name of await readdir(this.#folder)) {
      if (isLeft(name)) await rm(join(this.#folder, name), { recursive: true, force: true });
      else if (!name.startsWith("half-") && name !== wanted)
        found.push({ name, usedAt: (await stat(join(this.#folder, name))).mtimeMs });
    }
    const old = found.sort((a, b) => b.usedAt - a.usedAt).slice(mostKept - 1);
    for (const { name } of old) await rm(join(this.#folder, name), { recursive: true, force: true });
  }
}
