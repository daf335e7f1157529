import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { CertificateEntry, openCertificate, type CertificatePair } from "@platform/edge-api";
import type { Log } from "@platform/daemon";
import { z } from "zod";

/** What is kept in memory of a certificate; chain and key stay on disk until a handshake wants them. */
export type IndexEntry = Omit<CertificateEntry, "sealed">;

const Signed = z.object({ mac: z.string().regex(/^[0-9a-f]{64}$/), payload: z.string() });
const Index = z.object({
  version: z.int(),
  entries: z.array(CertificateEntry.omit({ sealed: true })),
});

async function writeDurably(path: string, text: string): Promise<void> {
  const temporary = `${path}.tmp`;
  const file = await open(temporary, "w", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}

/**
 * Certificates on disk, with which an edge serves while the control plane is away. Each lies in a file of
 * its own, encrypted and authenticated under a key derived from the edge's token; the index of all is
 * signed with it, so that whoever can write the folder cannot have another certificate served.
 */
export class CertificateCopy {
  readonly #folder: string;
  readonly #token: string;
  readonly #log: Log;

  /** @param folder creatable folder of this edge alone */
  constructor(folder: string, token: string, log: Log) {
    this.#folder = folder;
    this.#token = token;
    this.#log = log;
  }

  /** Version 0 and nothing, if there is no copy or it is not what this edge wrote: the feed then brings all. */
  async readIndex(): Promise<{ version: number; entries: IndexEntry[] }> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    let text: string;
    try {
      text = await readFile(this.#path("index.json"), "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return { version: 0, entries: [] };
      throw error;
    }
    try {
      const { mac, payload } = Signed.parse(JSON.parse(text));
      if (!timingSafeEqual(Buffer.from(this.#sign(payload), "hex"), Buffer.from(mac, "hex")))
        throw new Error("its signature does not match");
      return Index.parse(JSON.parse(payload));
    } catch (error) {
      this.#log.error(
        { reason: (error as Error).message },
        "the local copy of certificates is refused; the control plane's replaces it",
      );
      return { version: 0, entries: [] };
    }
  }

  async writeIndex(version: number, entries: Iterable<IndexEntry>): Promise<void> {
    const payload = JSON.stringify({ version, entries: [...entries] });
    await writeDurably(this.#path("index.json"), JSON.stringify({ mac: this.#sign(payload), payload }));
    const folder = await open(this.#folder, "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  }

  /** A renewed certificate has a file of its own, so that the index never names bytes that are not there. */
  write(entry: IndexEntry, sealed: string): Promise<void> {
    return writeDurably(this.#path(this.#file(entry)), sealed);
  }

  /** @throws Error when the file is missing or not what was written */
  async read(entry: IndexEntry): Promise<CertificatePair> {
    const sealed = await readFile(this.#path(this.#file(entry)), "utf8");
    return openCertificate(this.#token, entry.id, sealed);
  }

  /** Removes files that no entry names: replaced ones, and halves that a crash left. */
  async sweep(entries: Iterable<IndexEntry>): Promise<void> {
    const wanted = new Set(["index.json"]);
    for (const entry of entries) wanted.add(this.#file(entry));
    for (const name of await readdir(this.#folder))
      if (!wanted.has(name)) await rm(this.#path(name), { force: true });
  }

  async remove(entries: readonly IndexEntry[]): Promise<void> {
    for (const entry of entries) await rm(this.#path(this.#file(entry)), { force: true });
  }

  #file({ id, version }: IndexEntry): string {
    return `${createHash("sha256").update(`${id} ${version}`).digest("hex").slice(0, 40)}.sealed`;
  }

  #path(name: string): string {
    return join(this.#folder, name);
  }

  #sign(payload: string): string {
    return createHmac("sha256", this.#token).update(`certificates ${payload}`).digest("hex");
  }
}
