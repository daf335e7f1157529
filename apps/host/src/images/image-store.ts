import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Digest, ImageCertificate, ImageName } from "@platform/host-api";
import { z } from "zod";
import type { RootImage } from "../drivers/driver.ts";
import { runOrThrow } from "./run-program.ts";
import { measureTree } from "./tree-digest.ts";

/** What is known of one stored image; lies beside its tree. */
const Stored = z.object({
  digest: Digest,
  sizeBytes: z.number(),
  createdAt: z.string(),
  release: z.string().nullable(),
  /** What it was made of, for the reader: a definition's name, or `steps` on another digest. */
  origin: z.string(),
  /** The machine's boot in which it was stored. */
  bootId: z.string(),
});
export type StoredImage = z.output<typeof Stored>;

const Named = z.object({
  name: ImageName,
  digest: Digest,
  /** Hash of the definition that it was built from. */
  definitionHash: z.string(),
  certificate: ImageCertificate,
});
export type NamedImage = z.output<typeof Named>;

const hexOf = (digest: string): string => Digest.parse(digest).slice("sha256:".length);
const settledMark = "settled";
const currentBoot = async () => (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
const abandonedAfterMs = 24 * 3600_000;

async function readJson<T extends z.ZodType>(path: string, shape: T): Promise<z.output<T> | null> {
  try {
    return shape.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw new Error(`${path} cannot be read. Remove it and build the image again.`, { cause: error });
  }
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Images of one machine, shared read-only by all drivers and by every daemon that uses the folder:
 *
 * - `roots/<hex>/root` is the tree of the image `sha256:<hex>` (`RootImage.folder`), `image.json` lies beside it;
 * - `names/<name>.json` says which digest a built-in image has and which box proved it;
 * - `work/` holds what is being made.
 *
 * A tree appears by rename, whole or not at all, and is never written to afterwards.
 */
export class ImageStore {
  readonly folder: string;
  readonly lockFile: string;
  readonly #settling = new Set<Promise<void>>();

  constructor(folder: string) {
    this.folder = folder;
    this.lockFile = join(folder, "build.lock");
  }

  /** Call once, first. Removes what builds left that ended a day ago or longer. */
  async open(): Promise<void> {
    await mkdir(this.folder, { recursive: true, mode: 0o711 });
    for (const name of ["roots", "names", "work"])
      await mkdir(join(this.folder, name), { recursive: true, mode: 0o711 });
    await writeFile(this.lockFile, "", { flag: "a" });
    for (const name of await readdir(join(this.folder, "work"))) {
      const path = join(this.folder, "work", name);
      const status = await stat(path).catch(() => null);
      if (status && Date.now() - status.mtimeMs > abandonedAfterMs) await removeWork(path);
    }
  }

  /** A private folder for one build, on the file system of the images. */
  async makeWork(label: string): Promise<string> {
    const path = join(this.folder, "work", `${label}.${randomBytes(4).toString("hex")}`);
    await mkdir(path, { mode: 0o711 });
    return path;
  }

  /** Removes what earlier runs of a build with this label left. */
  async clearWork(label: string): Promise<void> {
    for (const name of await readdir(join(this.folder, "work")))
      if (name.startsWith(`${label}.`)) await removeWork(join(this.folder, "work", name));
  }

  root(digest: string): RootImage {
    return { digest, folder: join(this.folder, "roots", hexOf(digest), "root") };
  }

  /** `null` only if there is no such image, or a power cut may have damaged it. */
  async find(digest: string): Promise<StoredImage | null> {
    const folder = join(this.folder, "roots", hexOf(digest));
    const stored = await readJson(join(folder, "image.json"), Stored);
    if (!stored || stored.bootId === (await currentBoot())) return stored;
    const isSettled = await stat(join(folder, settledMark)).then(
      () => true,
      () => false,
    );
    return isSettled ? stored : null;
  }

  async list(): Promise<StoredImage[]> {
    const found = await Promise.all(
      (await readdir(join(this.folder, "roots"))).map((hex) => this.find(`sha256:${hex}`)),
    );
    return found.filter((image) => image !== null);
  }

  /**
   * Takes over a finished tree.
   *
   * @param work folder made by `makeWork` with the tree in `root/`; gone afterwards
   */
  async put(
    work: string,
    about: Pick<StoredImage, "release" | "origin">,
    signal: AbortSignal,
  ): Promise<StoredImage> {
    const { digest, sizeBytes } = await measureTree(join(work, "root"), signal);
    const known = await this.find(digest);
    if (known) {
      await removeWork(work);
      return known;
    }
    const bootId = await currentBoot();
    const stored: StoredImage = { digest, sizeBytes, createdAt: new Date().toISOString(), ...about, bootId };
    const staged = join(work, "staged");
    await mkdir(staged, { mode: 0o711 });
    await rename(join(work, "root"), join(staged, "root"));
    await writeFile(join(staged, "image.json"), JSON.stringify(stored), { mode: 0o644 });
    const target = join(this.folder, "roots", hexOf(digest));
    // What a power cut may have damaged is no image any more.
    await removeWork(target);
    try {
      await rename(staged, target);
    } catch (error) {
      // Another daemon stored the same tree meanwhile.
      if (!(await this.find(digest))) throw error;
    }
    await syncFolder(join(this.folder, "roots"));
    await removeWork(work);
    this.#settle(target);
    return stored;
  }

  /**
   * Writes a new tree's bytes out, in the background: on a busy machine that takes minutes. Until then the
   * image counts only as long as the machine's boot lasts.
   */
  #settle(target: string): void {
    const settled = runOrThrow("sync", ["-f", target], { signal: AbortSignal.timeout(3_600_000) })
      .then(() => writeFile(join(target, settledMark), "", { flush: true }))
      .catch(() => undefined) // It then counts as unsettled, and is built again after a power cut.
      .then(() => void this.#settling.delete(settled));
    this.#settling.add(settled);
  }

  /** Resolves once the tree is gone, also if it already was. Nobody may use it any more. */
  async remove(digest: string): Promise<void> {
    const path = join(this.folder, "roots", hexOf(digest));
    const doomed = join(this.folder, "work", `removed.${hexOf(digest)}.${randomBytes(4).toString("hex")}`);
    try {
      await rename(path, doomed);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
      throw error;
    }
    await removeWork(doomed);
  }

  named(name: string): Promise<NamedImage | null> {
    return readJson(join(this.folder, "names", `${ImageName.parse(name)}.json`), Named);
  }

  async name(entry: NamedImage): Promise<void> {
    const path = join(this.folder, "names", `${entry.name}.json`);
    const fresh = `${path}.${randomBytes(4).toString("hex")}`;
    await writeFile(fresh, JSON.stringify(entry), { mode: 0o644, flush: true });
    await rename(fresh, path);
    await syncFolder(join(this.folder, "names"));
  }

  async forgetName(name: string): Promise<void> {
    await rm(join(this.folder, "names", `${ImageName.parse(name)}.json`), { force: true });
  }
}

/** By rm, which never crosses into another file system: a mount that a crash left is not emptied. */
async function removeWork(path: string): Promise<void> {
  await runOrThrow("rm", ["-rf", "--one-file-system", "--", path], { signal: AbortSignal.timeout(120_000) });
}
