import { createWriteStream } from "node:fs";
import {
  chmod,
  link,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
} from "node:fs/promises";
import { join } from "node:path";
import { finished } from "node:stream/promises";
import { z } from "zod";
import { readBundle, withLayer } from "./bundle.ts";
import { readContents } from "./contents.ts";
import { type Digest, digestOfFile, hexOf } from "./digest.ts";
import type { ArtifactStore } from "./store.ts";
import { removeTree, syncFolder, temporaryName } from "./temporary.ts";
import { extractInto } from "./unpack.ts";

/** Beside the files, as `index.json`: what a server needs for lengths and entity tags. */
export const StaticIndex = z.object({
  version: z.literal(1),
  files: z.record(z.string(), z.object({ size: z.int().min(0), sha256: z.string() })),
  /** Links to folders or to nothing, which are not served. */
  skippedLinks: z.int().min(0),
});
export type StaticIndex = z.output<typeof StaticIndex>;

export interface StaticFiles {
  /** Folder of the unpacked, read-only files. */
  folder: string;
  /** Path of the StaticIndex. */
  indexPath: string;
}

const running = new Map<string, Promise<StaticFiles>>();

/**
 * Unpacks a bundle for serving, once: later and concurrent calls get the same folder. Links to
 * files become files, so that a server never has to follow one.
 *
 * @throws ArtifactMissingError, BundleTamperedError, NotABundleError, UnsafeArchiveError
 */
export function materializeStatic(store: ArtifactStore, digest: Digest): Promise<StaticFiles> {
  const place = join(store.folder, "static", hexOf(digest));
  const pending = running.get(place);
  if (pending) return pending;
  const started = materialize(store, digest, place).finally(() => running.delete(place));
  running.set(place, started);
  return started;
}

const exists = async (path: string) =>
  stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return false;
      throw error;
    },
  );

async function materialize(store: ArtifactStore, digest: Digest, place: string): Promise<StaticFiles> {
  const result = { folder: join(place, "files"), indexPath: join(place, "index.json") };
  if (await exists(result.indexPath)) {
    if (await isGenuine(store, digest, result)) return result;
    // Whoever still serves from it keeps its open files; the next look finds those unpacked anew.
    const trash = join(store.folder, "tmp", temporaryName());
    await rename(place, trash);
    await removeTree(trash);
  }
  const temporary = join(store.folder, "tmp", temporaryName());
  const files = join(temporary, "files");
  await mkdir(files, { recursive: true });
  try {
    await withLayer(store, digest, (layer) => unpackWithIndex(store, layer, temporary, files));
    await makeReadOnly(files);
    await syncFolder(temporary);
    await rename(temporary, place);
    await syncFolder(join(store.folder, "static"));
  } catch (error) {
    await removeTree(temporary);
    const { code } = error as NodeJS.ErrnoException;
    // Another process was first; what it made comes from the same verified bytes.
    if ((code === "ENOTEMPTY" || code === "EEXIST") && (await exists(result.indexPath))) return result;
    throw error;
  }
  return result;
}

/** Whether the unpacked files are what the bundle lists. One of an older version lists nothing: it is believed. */
async function isGenuine(store: ArtifactStore, digest: Digest, unpacked: StaticFiles): Promise<boolean> {
  const list = (await readBundle(store, digest)).config.release.contents;
  if (!list) return true;
  const read = await readFile(unpacked.indexPath, "utf8");
  let index: StaticIndex;
  try {
    index = StaticIndex.parse(JSON.parse(read));
  } catch {
    return false; // Whatever is in the index's place is not what was written there.
  }
  const listed = await readContents(store, list.digest);
  for (const [path, line] of listed) {
    if ("link" in line) continue;
    const found = await digestOfFile(join(unpacked.folder, path));
    if (found === null || hexOf(found.digest) !== line.sha256 || index.files[path]?.sha256 !== line.sha256)
      return false;
  }
  const built = new Set([...listed.values()].map((line) => ("link" in line ? "" : line.sha256)));
  // A link has become the file that it leads to.
  return Object.entries(index.files).every(([path, { sha256 }]) => listed.has(path) && built.has(sha256));
}

async function unpackWithIndex(store: ArtifactStore, layer: Digest, temporary: string, files: string) {
  const index = createWriteStream(join(temporary, "index.json"), { flags: "wx" });
  // `finished` throws it; one that comes after a failure of the unpacking must not end the process.
  index.on("error", () => undefined);
  let separator = "";
  const record = (path: string, size: number, sha256: string) => {
    index.write(`${separator}\n${JSON.stringify(path)}:${JSON.stringify({ size, sha256 })}`);
    separator = ",";
  };
  try {
    index.write(`{"version":1,"files":{`);
    const links: string[] = [];
    await extractInto(store, layer, files, {
      role: "layer",
      isDurable: true,
      onFile: record,
      onSymlink: (path) => links.push(path),
    });
    const skippedLinks = await replaceLinks(files, links, record);
    index.end(`},"skippedLinks":${skippedLinks}}\n`);
    await finished(index);
  } catch (error) {
    index.destroy();
    throw error;
  }
  const handle = await open(join(temporary, "index.json"), "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** @returns how many links lead to no file and were dropped */
async function replaceLinks(
  files: string,
  links: readonly string[],
  record: (path: string, size: number, sha256: string) => void,
): Promise<number> {
  const root = await realpath(files);
  const targets = new Map<string, string | null>();
  for (const path of links) targets.set(path, await fileBehind(root, path));
  let skipped = 0;
  // Only after all were resolved, since a link may lead through another.
  for (const [path, target] of targets) {
    await rm(join(files, path));
    if (target === null) skipped++;
    else {
      await link(target, join(files, path));
      const { digest, sizeBytes } = (await digestOfFile(target))!;
      record(path, sizeBytes, hexOf(digest));
    }
  }
  return skipped;
}

async function fileBehind(root: string, path: string): Promise<string | null> {
  try {
    const target = await realpath(join(root, path));
    return target.startsWith(`${root}/`) && (await lstat(target)).isFile() ? target : null;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ELOOP" || code === "ENOTDIR") return null;
    throw error;
  }
}

async function makeReadOnly(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await makeReadOnly(path);
    else await chmod(path, 0o444);
  }
  await syncFolder(folder);
  await chmod(folder, 0o555);
}
