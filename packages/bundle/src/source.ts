import { constants, type BigIntStats } from "node:fs";
import { lstat, open, readdir, readlink, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { SourceChangedError, SourceRefusedError, SymlinkEscapesError } from "./errors.ts";

export const maxEntries = 500_000;
const maxDepth = 256;

export type SourceEntry =
  | { type: "directory"; path: string }
  | { type: "symlink"; path: string; target: string }
  | { type: "file"; path: string; isExecutable: boolean; sizeBytes: number; content: AsyncIterable<Buffer> };

/**
 * Whether a link at `path` can only lead to places inside its folder. `..` may only come first:
 * after a name that is itself a link, it would lead elsewhere than the text says.
 */
export function staysInside(path: string, target: string): boolean {
  if (target === "" || target.startsWith("/") || target.includes("\0")) return false;
  const parts = target.split("/").filter((part) => part !== "" && part !== ".");
  let ups = 0;
  while (parts[ups] === "..") ups++;
  return !parts.slice(ups).includes("..") && ups <= path.split("/").length - 1;
}

/** Plain names are left out at any depth; names with a slash are paths from the folder. */
export function createExclusion(exclude: readonly string[]): (path: string, name: string) => boolean {
  const names = new Set<string>();
  const paths = new Set<string>();
  for (const item of exclude) {
    const bare = item.replace(/\/+$/, "");
    if (bare.includes("/")) paths.add(bare.replace(/^(\.?\/)+/, ""));
    else names.add(bare);
  }
  return (path, name) => names.has(name) || paths.has(path);
}

/**
 * A child of an open folder. Through the descriptor, not the path: whoever owns the files may swap
 * a folder for a link between two calls, and the path would then lead anywhere on this machine.
 */
const within = (folder: FileHandle, path: string, name: string) =>
  process.platform === "linux" ? `/proc/self/fd/${folder.fd}/${name}` : join(path, name);

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
function nameOf(bytes: Buffer, parent: string): string {
  try {
    return decoder.decode(bytes);
  } catch (error) {
    throw new SourceRefusedError(
      `A name in ${parent || "the folder"} is not UTF-8. Rename or exclude its folder, then retry.`,
      { cause: error },
    );
  }
}

const goneCodes: readonly unknown[] = ["ENOENT", "ELOOP", "ENOTDIR", "EISDIR", "ENXIO", "EINVAL"];
/** What vanished, or became another kind of file, between two looks has changed. */
function changed(path: string, error: unknown): unknown {
  const { code } = error as NodeJS.ErrnoException;
  return goneCodes.includes(code) ? new SourceChangedError(path, { cause: error }) : error;
}

async function* readExactly(file: FileHandle, before: BigIntStats, path: string): AsyncIterable<Buffer> {
  const wanted = Number(before.size);
  for (let at = 0; at < wanted;) {
    const buffer = Buffer.allocUnsafe(Math.min(256 << 10, wanted - at));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
    if (bytesRead === 0) throw new SourceChangedError(path);
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
  const after = await file.stat({ bigint: true });
  if (after.size !== before.size || after.mtimeNs !== before.mtimeNs) throw new SourceChangedError(path);
}

export interface Walk {
  /** Sockets, devices and pipes left out so far. */
  skipped: number;
  entries: AsyncIterable<SourceEntry>;
}

/**
 * Walks a folder in byte order of the paths, folders counted with their trailing slash. Links are
 * reported, never followed. A file's content must be read before the next entry is asked for.
 *
 * @param root trusted; a link here is followed
 * @param subfolder path below `root` at which to start, in which links are refused
 * @throws SymlinkEscapesError, SourceChangedError, SourceRefusedError
 */
export function walkSource(root: string, exclude: readonly string[], subfolder = ""): Walk {
  const isExcluded = createExclusion(exclude);
  let count = 0;
  const walk: Walk = { skipped: 0, entries: start() };

  async function* start(): AsyncIterable<SourceEntry> {
    const { handle, absolute } = await openFolder(root, subfolder);
    try {
      yield* folderEntries(handle, absolute, "", 0);
    } finally {
      await handle.close();
    }
  }

  async function listSorted(folder: FileHandle, absolute: string, parent: string) {
    const listed = [];
    for (const bytes of await readdir(within(folder, absolute, "."), { encoding: "buffer" })) {
      const name = nameOf(bytes, parent);
      const path = parent ? `${parent}/${name}` : name;
      if (isExcluded(path, name)) continue;
      if (++count > maxEntries)
        throw new SourceRefusedError(
          `The folder holds more than ${maxEntries} files. Exclude some, then retry.`,
        );
      const stats = await lstat(within(folder, absolute, name)).catch((error: unknown) => {
        throw changed(path, error);
      });
      const key = stats.isDirectory() ? Buffer.concat([bytes, Buffer.from("/")]) : bytes;
      listed.push({ name, path, stats, key });
    }
    return listed.sort((a, b) => Buffer.compare(a.key, b.key));
  }

  async function* folderEntries(
    folder: FileHandle,
    absolute: string,
    parent: string,
    depth: number,
  ): AsyncGenerator<SourceEntry> {
    if (depth > maxDepth)
      throw new SourceRefusedError(
        `${parent} is more than ${maxDepth} folders deep. Exclude it, then retry.`,
      );
    for (const { name, path, stats } of await listSorted(folder, absolute, parent)) {
      const place = within(folder, absolute, name);
      if (stats.isSymbolicLink()) yield await readSymlink(place, path);
      else if (stats.isDirectory()) {
        yield { type: "directory", path };
        const child = await openAs(place, path, constants.O_DIRECTORY);
        try {
          yield* folderEntries(child, join(absolute, name), path, depth + 1);
        } finally {
          await child.close();
        }
      } else if (stats.isFile()) yield* fileEntry(place, path);
      else walk.skipped++;
    }
  }

  return walk;
}

async function openAs(place: string, path: string, flags: number): Promise<FileHandle> {
  try {
    return await open(place, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | flags);
  } catch (error) {
    throw changed(path, error);
  }
}

/** Opens `subfolder` step by step, refusing links: its owner is not trusted, `root` is. */
async function openFolder(root: string, subfolder: string) {
  let handle = await open(root, constants.O_RDONLY | constants.O_DIRECTORY);
  let absolute = root;
  for (const name of subfolder.split("/").filter((part) => part !== "" && part !== ".")) {
    try {
      if (name === "..") throw new SymlinkEscapesError(subfolder, "..");
      const stats = await lstat(within(handle, absolute, name));
      if (stats.isSymbolicLink())
        throw new SymlinkEscapesError(subfolder, await readlink(within(handle, absolute, name)));
      const next = await openAs(within(handle, absolute, name), subfolder, constants.O_DIRECTORY);
      await handle.close();
      handle = next;
      absolute = join(absolute, name);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }
  return { handle, absolute };
}

async function readSymlink(place: string, path: string): Promise<SourceEntry> {
  const target = await readlink(place).catch((error: unknown) => {
    throw changed(path, error);
  });
  if (!staysInside(path, target)) throw new SymlinkEscapesError(path, target);
  return { type: "symlink", path, target };
}

async function* fileEntry(place: string, path: string): AsyncGenerator<SourceEntry> {
  const file = await openAs(place, path, 0);
  try {
    const stats = await file.stat({ bigint: true });
    if (!stats.isFile()) throw new SourceChangedError(path);
    const isExecutable = (stats.mode & 0o111n) !== 0n;
    const content = readExactly(file, stats, path);
    yield { type: "file", path, isExecutable, sizeBytes: Number(stats.size), content };
  } finally {
    await file.close();
  }
}
