import { createHash } from "node:crypto";
import { pipeline } from "node:stream/promises";
import { pack, type Pack } from "tar-stream";
import { unpackedFor } from "./compressed.ts";
import type { ContentLine } from "./contents.ts";
import type { Digest } from "./digest.ts";
import { SecretFoundError } from "./errors.ts";
import type { SecretSearch } from "./secret-search.ts";
import { type SourceEntry, walkSource } from "./source.ts";
import type { ArtifactStore } from "./store.ts";

export interface FrozenFolder {
  digest: Digest;
  /** Size of the archive. */
  sizeBytes: number;
  /** Regular files in it. */
  files: number;
  /** Sockets, devices and pipes left out. */
  skipped: number;
  hasIndexHtml: boolean;
}

export interface FreezeOptions {
  /** Plain names at any depth, or paths from the frozen folder. */
  exclude?: readonly string[];
  /**
   * Freeze this folder below `folder`, refusing links on the way. For paths that the owner of the
   * files chose: a box can make any part of them a link into this machine.
   */
  subfolder?: string;
  /** Looks at every byte on its way into the archive; a finding refuses the folder. */
  search?: SecretSearch;
  /** Told of every file and link, in the order of the archive. */
  onContent?: (line: ContentLine) => void;
}

const epoch = new Date(0);

async function* watched(content: AsyncIterable<Buffer>, looks: readonly ((chunk: Buffer) => void)[]) {
  for await (const chunk of content) {
    for (const look of looks) look(chunk);
    yield chunk;
  }
}

async function addEntry(archive: Pack, entry: SourceEntry, options: FreezeOptions): Promise<void> {
  const common = { name: entry.path, uid: 0, gid: 0, mtime: epoch };
  if (entry.type === "file") {
    const { path, isExecutable, sizeBytes } = entry;
    const hash = options.onContent ? createHash("sha256") : null;
    const search = options.search?.file(path);
    const looks = [
      ...(search ? [search] : []),
      ...(hash ? [(chunk: Buffer) => void hash.update(chunk)] : []),
    ];
    const watchedContent = looks.length > 0 ? watched(entry.content, looks) : entry.content;
    const content = options.search
      ? unpackedFor(path, watchedContent, options.search.file(path))
      : watchedContent;
    const mode = isExecutable ? 0o755 : 0o644;
    await pipeline(content, archive.entry({ ...common, type: "file", mode, size: sizeBytes }));
    if (hash)
      options.onContent?.({ path, sha256: hash.digest("hex"), size: sizeBytes, executable: isExecutable });
    return;
  }
  if (entry.type === "symlink") options.onContent?.({ path: entry.path, link: entry.target });
  const header =
    entry.type === "symlink"
      ? { ...common, type: "symlink" as const, linkname: entry.target, mode: 0o755 }
      : { ...common, type: "directory" as const, name: `${entry.path}/`, mode: 0o755 };
  await new Promise<void>((resolve, reject) => {
    archive.entry(header, (error) => (error ? reject(error) : resolve()));
  });
}

/**
 * Packs a folder into one uncompressed tar in the store. Its digest depends on names, bytes,
 * executable bits and link targets only. Uncompressed, since zlib's output differs between versions.
 *
 * @throws SymlinkEscapesError, SourceChangedError, SourceRefusedError, SecretFoundError; nothing is stored then
 */
export async function freezeFolder(
  store: ArtifactStore,
  folder: string,
  options: FreezeOptions = {},
): Promise<FrozenFolder> {
  const walk = walkSource(folder, options.exclude ?? [], options.subfolder);
  const archive = pack();
  // The failure is thrown below; a folder refused before the store reads would else end the process.
  archive.on("error", () => undefined);
  let files = 0;
  let hasIndexHtml = false;
  const produce = async () => {
    try {
      for await (const entry of walk.entries) {
        await addEntry(archive, entry, options);
        if (options.search?.isFull) break;
        if (entry.type !== "file") continue;
        files++;
        if (entry.path === "index.html") hasIndexHtml = true;
      }
      if (options.search && options.search.findings.length > 0)
        throw new SecretFoundError(options.search.findings);
      archive.finalize();
    } catch (error) {
      archive.destroy(error as Error);
      throw error;
    }
  };
  let isTorn = false;
  const content = async function* () {
    try {
      yield* archive as AsyncIterable<Buffer>;
    } catch (error) {
      isTorn = true;
      throw error;
    }
  };
  const keep = async () => {
    try {
      return await store.put(content());
    } catch (error) {
      // A store that failed before it read would else leave the producer waiting for ever.
      archive.destroy(error as Error);
      throw error;
    }
  };
  const [produced, stored] = await Promise.allSettled([produce(), keep()]);
  // Each sees the other's failure as a torn stream, so only the side that failed first says why.
  if (stored.status === "rejected" && !isTorn) throw stored.reason;
  if (produced.status === "rejected") throw produced.reason;
  if (stored.status === "rejected") throw stored.reason;
  return { ...stored.value, files, skipped: walk.skipped, hasIndexHtml };
}
