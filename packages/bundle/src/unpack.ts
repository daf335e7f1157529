import { createHash, type Hash } from "node:crypto";
import { constants, createReadStream } from "node:fs";
import { lchown, lstat, mkdir, open, rename, symlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { extract, type Extract } from "tar-stream";
import { type Digest, digestOfFile } from "./digest.ts";
import {
  ArchiveTooLargeError,
  ArtifactError,
  ArtifactMissingError,
  type BlobRole,
  BundleTamperedError,
  UnsafeArchiveError,
} from "./errors.ts";
import { maxEntries, staysInside } from "./source.ts";
import type { ArtifactStore } from "./store.ts";
import { removeAbandoned, removeTree, syncFolder, temporaryName } from "./temporary.ts";

export interface UnpackOptions {
  /** Owner of everything unpacked. Without it: this process. */
  uid?: number;
  gid?: number;
  /** Most bytes of all files together. Default 16 GiB. */
  maxBytes?: number;
  /** Most entries. Default and upper bound 500,000. */
  maxEntries?: number;
}

type Entry = Extract extends AsyncIterable<infer T> ? T : never;

interface Extraction extends UnpackOptions {
  role: BlobRole;
  /** Called after each regular file. */
  onFile?: (path: string, sizeBytes: number, sha256: string) => void;
  onSymlink?: (path: string) => void;
  /** Whether each file is flushed to disk, for folders that outlive the process. */
  isDurable?: boolean;
}

/** @throws UnsafeArchiveError unless the name stays below the folder it is unpacked into */
function safePath(name: string): string {
  const path = name.replace(/\/$/, "");
  const parts = path.split("/");
  const isSafe = parts.every((part) => part !== "" && part !== "." && part !== ".." && part.length <= 255);
  if (!isSafe || path.includes("\0") || path.length > 4096)
    throw new UnsafeArchiveError(`The archive holds a name that leaves its folder: ${JSON.stringify(name)}.`);
  return path;
}

/** Writes entries into a folder that nobody else writes to, so that a check stays true. */
class Unpacker {
  readonly #root: string;
  readonly #options: Extraction;
  #lastFolder = "";
  #entries = 0;
  #bytes = 0;

  constructor(root: string, options: Extraction) {
    this.#root = root;
    this.#options = options;
  }

  async add(entry: Entry): Promise<void> {
    const { header } = entry;
    const path = safePath(header.name);
    this.#count(header.size ?? 0);
    if (header.type === "directory") await this.#folder(path);
    else {
      await this.#folder(dirname(path));
      if (header.type === "file" || header.type === "contiguous-file") await this.#file(path, entry);
      else if (header.type === "symlink") await this.#symlink(path, header.linkname ?? "");
      else throw new UnsafeArchiveError(`The archive holds a ${header.type} at ${path}, which is refused.`);
    }
    entry.resume();
  }

  #count(sizeBytes: number): void {
    const entries = Math.min(maxEntries, this.#options.maxEntries ?? maxEntries);
    const bytes = this.#options.maxBytes ?? 16 * 2 ** 30;
    this.#entries++;
    this.#bytes += sizeBytes;
    if (this.#entries > entries)
      throw new ArchiveTooLargeError(`The archive has more than ${entries} entries.`);
    if (this.#bytes > bytes)
      throw new ArchiveTooLargeError(`The archive unpacks to more than ${bytes} bytes.`);
  }

  /** Makes every folder on the way, refusing to pass through a link that an earlier entry made. */
  async #folder(path: string): Promise<void> {
    if (path === "." || path === this.#lastFolder) return;
    let at = "";
    for (const part of path.split("/")) {
      at = at ? `${at}/${part}` : part;
      const place = join(this.#root, at);
      try {
        await mkdir(place, 0o755);
        await this.#own(place);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
        if (!(await lstat(place)).isDirectory())
          throw new UnsafeArchiveError(`The archive writes below ${at}, which is not a folder.`);
      }
    }
    this.#lastFolder = path;
  }

  async #file(path: string, entry: Entry): Promise<void> {
    const place = join(this.#root, path);
    const hash: Hash | null = this.#options.onFile ? createHash("sha256") : null;
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    const handle = await open(place, flags, 0o600).catch((error: unknown) => {
      throw duplicate(path, error);
    });
    let sizeBytes = 0;
    try {
      for await (const chunk of entry as AsyncIterable<Buffer>) {
        hash?.update(chunk);
        sizeBytes += chunk.length;
        for (let at = 0; at < chunk.length;) at += (await handle.write(chunk, at)).bytesWritten;
      }
      await handle.chmod(((entry.header.mode ?? 0) & 0o111) !== 0 ? 0o755 : 0o644);
      if (this.#options.isDurable) await handle.sync();
    } finally {
      await handle.close();
    }
    await this.#own(place);
    if (hash) this.#options.onFile?.(path, sizeBytes, hash.digest("hex"));
  }

  async #symlink(path: string, target: string): Promise<void> {
    if (!staysInside(path, target))
      throw new UnsafeArchiveError(`The archive holds a link at ${path} that leaves its folder.`);
    const place = join(this.#root, path);
    await symlink(target, place).catch((error: unknown) => {
      throw duplicate(path, error);
    });
    await this.#own(place);
    this.#options.onSymlink?.(path);
  }

  async #own(place: string): Promise<void> {
    const { uid, gid } = this.#options;
    if (uid !== undefined || gid !== undefined) await lchown(place, uid ?? -1, gid ?? -1);
  }
}

function duplicate(path: string, error: unknown): unknown {
  if ((error as NodeJS.ErrnoException).code !== "EEXIST") return error;
  return new UnsafeArchiveError(`The archive holds ${path} twice.`, { cause: error });
}

/**
 * Unpacks into `folder`, which exists, is empty and belongs to the caller alone.
 * @throws BundleTamperedError if the blob's bytes are not those of its digest; the folder is then
 *   half-filled, so callers unpack into a temporary folder and rename it
 */
export async function extractInto(
  store: ArtifactStore,
  digest: Digest,
  folder: string,
  options: Extraction,
): Promise<void> {
  if (!(await store.has(digest))) throw new ArtifactMissingError(digest);
  const hash = createHash("sha256");
  const meter = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      done(null, chunk);
    },
  });
  const archive = extract();
  const unpacker = new Unpacker(folder, options);
  const unpackAll = async () => {
    for await (const entry of archive) await unpacker.add(entry);
  };
  const source = createReadStream(store.blobPath(digest), { highWaterMark: 256 << 10 });
  const [unpacked, fed] = await Promise.allSettled([unpackAll(), pipeline(source, meter, archive)]);
  const failure = unpacked.status === "rejected" ? unpacked : fed.status === "rejected" ? fed : null;
  if (!failure) {
    const found: Digest = `sha256:${hash.digest("hex")}`;
    if (found !== digest) throw new BundleTamperedError(options.role, digest, found);
    return;
  }
  // Damage breaks the archive's structure before its digest is known; damage is then the answer.
  const found = await digestOfFile(store.blobPath(digest));
  if (found?.digest !== digest) throw new BundleTamperedError(options.role, digest, found?.digest ?? null);
  const { code } = failure.reason as NodeJS.ErrnoException;
  if (failure.reason instanceof ArtifactError || code !== undefined) throw failure.reason;
  throw new UnsafeArchiveError(`${digest} is no archive that can be unpacked.`, { cause: failure.reason });
}

/** Unpacks beside `into` and renames, so that `into` is either absent or whole. */
export async function unpackBlob(
  store: ArtifactStore,
  digest: Digest,
  into: string,
  options: Extraction,
): Promise<void> {
  const parent = dirname(into);
  const prefix = `.${basename(into)}.`;
  await removeAbandoned(parent, prefix);
  const temporary = join(parent, temporaryName(prefix));
  await mkdir(temporary, 0o700);
  try {
    await extractInto(store, digest, temporary, options);
    const handle = await open(temporary, "r");
    try {
      await handle.chmod(0o755);
      if (options.uid !== undefined || options.gid !== undefined)
        await handle.chown(options.uid ?? -1, options.gid ?? -1);
    } finally {
      await handle.close();
    }
    // Replaces an empty folder; anything else at `into` makes it fail.
    await rename(temporary, into);
    await syncFolder(parent);
  } catch (error) {
    await removeTree(temporary);
    throw error;
  }
}

/**
 * Unpacks a frozen folder. `into` is absent or an empty folder before, and whole or untouched after.
 *
 * @throws ArtifactMissingError, BundleTamperedError, UnsafeArchiveError, ArchiveTooLargeError;
 *   ENOTEMPTY if something is at `into`
 */
export const unpackSource = (
  store: ArtifactStore,
  digest: Digest,
  into: string,
  options: UnpackOptions = {},
): Promise<void> => unpackBlob(store, digest, into, { ...options, role: "source" });
