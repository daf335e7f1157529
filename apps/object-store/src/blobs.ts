import { randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { link, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";

export interface Segment {
  blob: string;
  sizeBytes: number;
}

/**
 * Content under random names: keys never become paths, and equal content of two tenants is stored twice, so that
 * removing one needs no count of the other. The index says what of it is there.
 */
export interface Blobs {
  /**
   * Stores a stream durably.
   * @param check called with the size in bytes once all is read; nothing is kept if it throws
   */
  write(source: AsyncIterable<Buffer>, check: (sizeBytes: number) => void): Promise<Segment>;
  /** The same content under a second name. */
  copy(segment: Segment): Promise<Segment>;
  /** Keeps segments until the returned function is called, also if they are removed. */
  hold(segments: readonly Segment[]): () => Promise<void>;
  exists(segment: Segment): Promise<boolean>;
  /** @param last inclusive, both counted over all segments together */
  read(segments: readonly Segment[], first: number, last: number): AsyncGenerator<Buffer>;
  remove(blobs: readonly string[]): Promise<void>;
  /**
   * Removes what a crash left: what is unfinished, and blobs that no row names.
   * @param before only what was last written before this, in milliseconds since the epoch, since the
   *   row of a younger one may be on its way
   * @param findKnown which of the given blobs have a row
   */
  sweep(before: number, findKnown: (blobs: string[]) => Promise<Set<string>>): Promise<number>;
}

/** Names that are read are removed once nobody reads them. */
export class Holds {
  readonly #readers = new Map<string, number>();
  readonly #doomed = new Set<string>();

  hold(segments: readonly Segment[], remove: (blob: string) => Promise<void>): () => Promise<void> {
    for (const { blob } of segments) this.#readers.set(blob, (this.#readers.get(blob) ?? 0) + 1);
    return async () => {
      for (const { blob } of segments) {
        const left = this.#readers.get(blob)! - 1;
        if (left > 0) this.#readers.set(blob, left);
        else {
          this.#readers.delete(blob);
          if (this.#doomed.delete(blob)) await remove(blob);
        }
      }
    };
  }

  /** @returns whether somebody reads it, who removes it then */
  isRead(blob: string): boolean {
    if (!this.#readers.has(blob)) return false;
    this.#doomed.add(blob);
    return true;
  }
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

/** On the disk of this machine. */
export class DiskBlobs implements Blobs {
  readonly #folder: string;
  readonly #temporary: string;
  readonly #holds = new Holds();

  private constructor(folder: string) {
    this.#folder = join(folder, "blobs");
    this.#temporary = join(folder, "tmp");
  }

  static async open(folder: string): Promise<DiskBlobs> {
    const blobs = new DiskBlobs(folder);
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

  hold = (segments: readonly Segment[]) =>
    this.#holds.hold(segments, (blob) => rm(this.#path(blob), { force: true }));

  async exists(segment: Segment): Promise<boolean> {
    try {
      await stat(this.#path(segment.blob));
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
      throw error;
    }
  }

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
      if (!this.#holds.isRead(blob)) await rm(this.#path(blob), { force: true });
    }
  }

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
