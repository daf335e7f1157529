import { randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { link, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";

export interface Segment {
  blob: string;
  sizeBytes: number;
}

/** Bytes gathered before a write. */
const writeBytes = 256 << 10;

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Content on disk under random names: keys never become paths, and equal content of two tenants is
 * two files, so that removing one needs no count of the other.
 */
export class Blobs {
  readonly #folder: string;
  readonly #temporary: string;
  readonly #readers = new Map<string, number>();
  readonly #doomed = new Set<string>();

  private constructor(folder: string) {
    this.#folder = join(folder, "blobs");
    this.#temporary = join(folder, "tmp");
  }

  static async open(folder: string): Promise<Blobs> {
    const blobs = new Blobs(folder);
    await mkdir(blobs.#temporary, { recursive: true, mode: 0o700 });
    for (let at = 0; at < 256; at++)
      await mkdir(join(blobs.#folder, at.toString(16).padStart(2, "0")), { recursive: true, mode: 0o700 });
    await syncFolder(blobs.#folder);
    return blobs;
  }

  #path(blob: string): string {
    if (!/^[0-9a-f]{32}$/.test(blob)) throw new Error("a blob's name is 32 hexadecimal digits");
    return join(this.#folder, blob.slice(0, 2), blob);
  }

  /**
   * Stores a stream durably.
   * @param check called with the size in bytes once all is read; nothing is kept if it throws
   */
  async write(source: AsyncIterable<Buffer>, check: (sizeBytes: number) => void): Promise<Segment> {
    const blob = randomUUID().replaceAll("-", "");
    const temporary = join(this.#temporary, blob);
    try {
      const sizeBytes = await writeFile(temporary, source, check);
      await rename(temporary, this.#path(blob));
      await syncFolder(join(this.#folder, blob.slice(0, 2)));
      return { blob, sizeBytes };
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }

  /** A second name for content that never changes: no bytes are moved. */
  async copy(segment: Segment): Promise<Segment> {
    const blob = randomUUID().replaceAll("-", "");
    await link(this.#path(segment.blob), this.#path(blob));
    await syncFolder(join(this.#folder, blob.slice(0, 2)));
    return { blob, sizeBytes: segment.sizeBytes };
  }

  /** Keeps segments on disk until the returned function is called, also if they are removed. */
  hold(segments: readonly Segment[]): () => Promise<void> {
    for (const { blob } of segments) this.#readers.set(blob, (this.#readers.get(blob) ?? 0) + 1);
    return async () => {
      for (const { blob } of segments) {
        const left = this.#readers.get(blob)! - 1;
        if (left > 0) this.#readers.set(blob, left);
        else {
          this.#readers.delete(blob);
          if (this.#doomed.delete(blob)) await rm(this.#path(blob), { force: true });
        }
      }
    };
  }

  async exists(segment: Segment): Promise<boolean> {
    try {
      await stat(this.#path(segment.blob));
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
      throw error;
    }
  }

  /** @param last inclusive, both counted over all segments together */
  async *read(segments: readonly Segment[], first: number, last: number): AsyncGenerator<Buffer> {
    let at = 0;
    for (const { blob, sizeBytes } of segments) {
      const [start, end] = [Math.max(first - at, 0), Math.min(last - at, sizeBytes - 1)];
      at += sizeBytes;
      if (start <= end)
        yield* createReadStream(this.#path(blob), {
          start,
          end,
          highWaterMark: 256 << 10,
        }) as AsyncIterable<Buffer>;
    }
  }

  async remove(blobs: readonly string[]): Promise<void> {
    for (const blob of blobs) {
      if (this.#readers.has(blob)) this.#doomed.add(blob);
      else await rm(this.#path(blob), { force: true });
    }
  }

  /**
   * Removes what a crash left: unfinished files, and blobs that no row names.
   * @param before only files last written before this, in milliseconds since the epoch, since the
   *   row of a younger one may be on its way
   * @param findKnown which of the given blobs have a row
   */
  async sweep(before: number, findKnown: (blobs: string[]) => Promise<Set<string>>): Promise<number> {
    let removed = 0;
    const removeOld = async (folder: string, names: string[]) => {
      for (const name of names) {
        await rm(join(folder, name), { force: true });
        removed++;
      }
    };
    await removeOld(this.#temporary, await oldNames(this.#temporary, before));
    for (const part of await readdir(this.#folder)) {
      const folder = join(this.#folder, part);
      const names = await oldNames(folder, before);
      for (let at = 0; at < names.length; at += 1000) {
        const batch = names.slice(at, at + 1000);
        const known = await findKnown(batch);
        await removeOld(
          folder,
          batch.filter((name) => !known.has(name)),
        );
      }
    }
    return removed;
  }
}

async function oldNames(folder: string, before: number): Promise<string[]> {
  const names = [];
  for (const name of await readdir(folder)) {
    try {
      const { ctimeMs } = await stat(join(folder, name));
      if (ctimeMs < before) names.push(name);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
  return names;
}

async function writeFile(
  path: string,
  source: AsyncIterable<Buffer>,
  check: (sizeBytes: number) => void,
): Promise<number> {
  let sizeBytes = 0;
  let pending: Buffer[] = [];
  let pendingBytes = 0;
  const handle = await open(path, "wx", 0o600);
  const flush = async () => {
    const bytes = pending.length === 1 ? pending[0]! : Buffer.concat(pending, pendingBytes);
    pending = [];
    pendingBytes = 0;
    for (let at = 0; at < bytes.length;) at += (await handle.write(bytes, at)).bytesWritten;
  };
  try {
    for await (const chunk of source) {
      sizeBytes += chunk.length;
      pendingBytes += chunk.length;
      pending.push(chunk);
      if (pendingBytes >= writeBytes) await flush();
    }
    check(sizeBytes);
    if (pendingBytes > 0) await flush();
    await handle.sync();
  } finally {
    await handle.close();
  }
  return sizeBytes;
}
