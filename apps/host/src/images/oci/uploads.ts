import { createWriteStream } from "node:fs";
import { mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { Transform, type Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { BoxKey, HostError, type ImageUpload } from "@platform/host-api";

const keptMs = 24 * 3600_000;
const maxBytes = 20 * 1024 ** 3;
/** Of the file system, which everything on the machine shares. */
const reserveBytes = 2 * 1024 ** 3;

/** Uploaded images that wait for a build, one file each, for a day. */
export class ImageUploads {
  readonly #folder: string;
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Call first. Removes what was cut off, and what is a day old. */
  async open(): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    for (const name of await readdir(this.#folder))
      if (name.endsWith(".part")) await rm(join(this.#folder, name), { force: true });
    await this.#forgetOld();
  }

  async #forgetOld(): Promise<void> {
    for (const name of await readdir(this.#folder)) {
      const found = await stat(join(this.#folder, name)).catch(() => null);
      if (found && Date.now() - found.mtimeMs > keptMs) await rm(join(this.#folder, name), { force: true });
    }
  }

  #path = (key: string): string => join(this.#folder, `${BoxKey.parse(key)}.tar`);

  async find(key: string): Promise<string | null> {
    const found = await stat(this.#path(key)).catch(() => null);
    return found ? this.#path(key) : null;
  }

  /** Replaces what the key had. @throws HostError `INVALID` for a body that is too long, `DISK_FULL` */
  async put(key: string, body: Readable): Promise<ImageUpload> {
    const { statfs } = await import("node:fs/promises");
    await this.#forgetOld();
    const part = `${this.#path(key)}.part`;
    let bytes = 0;
    const counted = new Transform({
      highWaterMark: 1024 * 1024,
      transform: (chunk: Buffer, _encoding, done) => {
        bytes += chunk.length;
        done(bytes > maxBytes ? new HostError("INVALID", 413, "An image may have 20 GiB.") : null, chunk);
      },
    });
    const { bavail, bsize } = await statfs(this.#folder);
    if (bavail * bsize < reserveBytes)
      throw new HostError(
        "DISK_FULL",
        507,
        "The machine has no room for an upload. Free space, then try again.",
      );
    try {
      await pipeline(body, counted, createWriteStream(part, { mode: 0o600, highWaterMark: 1024 * 1024 }));
    } catch (error) {
      await rm(part, { force: true });
      if ((error as NodeJS.ErrnoException).code === "ENOSPC")
        throw new HostError("DISK_FULL", 507, "The machine's disk is full.", {}, { cause: error });
      throw error;
    }
    await rename(part, this.#path(key));
    return { key, sizeBytes: bytes, createdAt: new Date().toISOString() };
  }

  /** Resolves also if there is none. */
  remove = (key: string): Promise<void> => rm(this.#path(key), { force: true });
}
