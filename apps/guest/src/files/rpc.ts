import { cp, lstat, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import type { EntryInfo, Filesystem } from "@platform/guest-protocol";
import type { Environment } from "../environment.ts";
import { readEntry } from "./entry.ts";
import { guarded } from "./guarded.ts";
import { metadataOf, type FileMetadata } from "./metadata.ts";
import { resolvePath } from "./paths.ts";
import { createWatchMethods } from "./watch-rpc.ts";
import { makeFolders } from "./make-folders.ts";

/** Entries of one listing; deeper trees are listed folder by folder. */
const MAX_ENTRIES = 100_000;

/** envd's filesystem service. */
export function createFilesystemService(environment: Environment): ServiceImpl<typeof Filesystem> {
  const at = (path: string) => {
    if (path === "") throw new ConnectError("path is required", Code.InvalidArgument);
    return resolvePath(path, environment.home, environment.home);
  };
  const notes = metadataOf(environment);
  return {
    stat: ({ path }) => guarded(at(path), async (full) => ({ entry: await readEntry(full, notes) })),
    makeDir: ({ path }) => guarded(at(path), (full) => makeFolder(full, notes)),
    move: ({ source, destination }) => guarded(at(source), (from) => move(from, at(destination), notes)),
    listDir: ({ path, depth }) =>
      guarded(at(path), async (full) => ({ entries: await list(full, Math.max(1, depth), notes) })),
    remove: ({ path }) =>
      guarded(at(path), async (full) => {
        await rm(full, { recursive: true, force: true });
        return {};
      }),
    ...createWatchMethods(at, notes),
  };
}

async function makeFolder(path: string, notes: FileMetadata) {
  const old = await stat(path).catch(() => null);
  if (old?.isDirectory()) throw new ConnectError(`directory already exists: ${path}`, Code.AlreadyExists);
  if (old)
    throw new ConnectError(`path already exists but it is not a directory: ${path}`, Code.InvalidArgument);
  await makeFolders(path);
  return { entry: await readEntry(path, notes) };
}

async function move(source: string, destination: string, notes: FileMetadata) {
  await lstat(source);
  await makeFolders(dirname(destination));
  try {
    await rename(source, destination);
  } catch (error) {
    // Two mounts of the box, such as the workspace and /tmp.
    if ((error as NodeJS.ErrnoException).code !== "EXDEV") throw error;
    await cp(source, destination, { recursive: true, preserveTimestamps: true, verbatimSymlinks: true });
    await rm(source, { recursive: true, force: true });
  }
  return { entry: await readEntry(destination, notes) };
}

async function list(root: string, depth: number, notes: FileMetadata): Promise<EntryInfo[]> {
  const found = await stat(root);
  if (!found.isDirectory()) throw new ConnectError(`path is not a directory: ${root}`, Code.InvalidArgument);
  const entries: EntryInfo[] = [];
  const walk = async (folder: string, levels: number): Promise<void> => {
    const names = (await readdir(folder, { withFileTypes: true })).sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const found of names) {
      const path = join(folder, found.name);
      // What vanishes while it is listed is left out.
      const entry = await readEntry(path, notes).catch(() => null);
      if (!entry) continue;
      if (entries.push(entry) > MAX_ENTRIES) {
        throw new ConnectError(`more than ${MAX_ENTRIES} entries: use a smaller depth`, Code.InvalidArgument);
      }
      if (levels > 1 && found.isDirectory()) await walk(path, levels - 1);
    }
  };
  await walk(root, depth);
  return entries;
}
