import { execFile } from "node:child_process";
import { mkdir, open, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { BoxLimits } from "@platform/host-api";

const run = promisify(execFile);
const mib = 1024 * 1024;
const blockBytes = 4096;
const inodeBytes = 256;
/** A journal may fill half of its file system only; a smaller limit than fits here is rounded up. */
const smallestImageBytes = 12 * mib;

/** One file for 8 KiB: twice what the file system's own default gives, as package folders hold small files. */
export const maxFilesOf = (limits: BoxLimits): number =>
  limits.maxFiles ?? Math.min(1_000_000, Math.max(16_384, Math.floor(limits.diskBytes / 8192)));

interface Shape {
  readonly imageBytes: number;
  readonly files: number;
  readonly journalMib: number;
}

/** The file system's own tables come on top, so that the app gets what its limit says. */
function shapeOf(limits: BoxLimits): Shape {
  const files = maxFilesOf(limits);
  const journalMib = limits.diskBytes < 1024 * mib ? 4 : 16;
  const tables = files * inodeBytes + journalMib * mib + 2 * mib;
  const bytes = Math.max(smallestImageBytes, limits.diskBytes * 1.001 + tables);
  return { imageBytes: Math.ceil(bytes / mib) * mib, files, journalMib };
}

/** Sparse: takes room on the machine's disk only for what is written. */
async function format(path: string, { imageBytes, files, journalMib }: Shape): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.truncate(imageBytes);
  } finally {
    await file.close();
  }
  await run("mkfs.ext4", [
    ...["-q", "-F", "-b", String(blockBytes), "-I", String(inodeBytes), "-N", String(files), "-m", "0"],
    ...["-J", `size=${journalMib}`, "-O", "^resize_inode"],
    // The file is all holes, which read as zeros: nothing needs to be written to make it so.
    ...["-E", "lazy_itable_init=0,assume_storage_prezeroed=1,lazy_journal_init=1,nodiscard"],
    path,
  ]);
}

/** Formatted images, one for each size that was asked for: a copy of its few written blocks is a new disk. */
export class ImageTemplates {
  readonly #folder: string;
  readonly #ready = new Map<string, Promise<string>>();

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** @throws Error when it cannot be made; `path` is not there then */
  async copy(limits: BoxLimits, path: string): Promise<void> {
    const shape = shapeOf(limits);
    const name = `${shape.imageBytes}-${shape.files}-${shape.journalMib}.img`;
    const making = this.#ready.get(name) ?? this.#make(name, shape);
    this.#ready.set(name, making);
    const template = await making.catch((error: unknown) => {
      this.#ready.delete(name);
      throw error;
    });
    try {
      await run("cp", ["--sparse=always", "--reflink=auto", "--", template, path]);
    } catch (error) {
      await rm(path, { force: true });
      throw error;
    }
  }

  async #make(name: string, shape: Shape): Promise<string> {
    const path = join(this.#folder, name);
    if (await stat(path).catch(() => null)) return path;
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const half = `${path}.half-${process.pid}`;
    await rm(half, { force: true });
    await format(half, shape);
    await rename(half, path);
    return path;
  }
}
