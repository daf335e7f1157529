import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { pipeline } from "node:stream/promises";
import { extract } from "tar-stream";
import { z } from "zod";
import type { Digest } from "./digest.ts";
import { type FileDifference, NotABundleError } from "./errors.ts";
import type { ArtifactStore } from "./store.ts";

/** One file or link of a bundle. Folders are not listed: they hold no bytes. */
export const ContentLine = z.union([
  z.strictObject({ path: z.string(), sha256: z.string(), size: z.int().min(0), executable: z.boolean() }),
  z.strictObject({ path: z.string(), link: z.string() }),
]);
export type ContentLine = z.output<typeof ContentLine>;

/** Of each kind; what is beyond is counted only. */
export const mostDifferences = 500;
const longestLine = 64 * 1024;

/** What of a file makes it this file; two that agree are the same. */
export const contentOf = (line: ContentLine): string =>
  "link" in line ? `link to ${line.link}` : `sha256:${line.sha256}${line.executable ? " executable" : ""}`;

/** @throws NotABundleError */
export async function readContents(store: ArtifactStore, digest: Digest): Promise<Map<string, ContentLine>> {
  const found = new Map<string, ContentLine>();
  const lines = createInterface({ input: createReadStream(store.blobPath(digest)), crlfDelay: Infinity });
  try {
    for await (const text of lines) {
      if (text.length > longestLine) throw new NotABundleError(`${digest} is no list of files.`);
      const line = ContentLine.parse(JSON.parse(text));
      found.set(line.path, line);
    }
  } catch (error) {
    if (error instanceof NotABundleError) throw error;
    throw new NotABundleError(`${digest} is no list of files that this version can read.`, { cause: error });
  }
  return found;
}

export interface ContentsDiff {
  readonly added: readonly FileDifference[];
  readonly removed: readonly FileDifference[];
  readonly changed: readonly FileDifference[];
  /** All of them, also beyond those that are listed. */
  readonly counts: { readonly added: number; readonly removed: number; readonly changed: number };
}

export function diffContents(
  from: ReadonlyMap<string, ContentLine>,
  to: ReadonlyMap<string, ContentLine>,
): ContentsDiff {
  const all = { added: [], removed: [], changed: [] } as Record<
    "added" | "removed" | "changed",
    FileDifference[]
  >;
  for (const path of [...new Set([...from.keys(), ...to.keys()])].sort()) {
    const [before, after] = [from.get(path), to.get(path)];
    const expected = before ? contentOf(before) : null;
    const actual = after ? contentOf(after) : null;
    if (expected === actual) continue;
    all[expected === null ? "added" : actual === null ? "removed" : "changed"].push({
      path,
      expected,
      actual,
    });
  }
  const { added, removed, changed } = all;
  return {
    added: added.slice(0, mostDifferences),
    removed: removed.slice(0, mostDifferences),
    changed: changed.slice(0, mostDifferences),
    counts: { added: added.length, removed: removed.length, changed: changed.length },
  };
}

/** Reads as much of an archive as is still readable; what comes after a torn header counts as gone. */
async function listArchive(path: string): Promise<Map<string, ContentLine>> {
  const found = new Map<string, ContentLine>();
  const archive = extract();
  const list = async () => {
    for await (const entry of archive) {
      const { name, type, linkname, mode } = entry.header;
      const hash = createHash("sha256");
      let size = 0;
      for await (const chunk of entry as AsyncIterable<Buffer>) {
        hash.update(chunk);
        size += chunk.length;
      }
      if (type === "symlink") found.set(name, { path: name, link: linkname ?? "" });
      else if (type === "file")
        found.set(name, {
          ...{ path: name, sha256: hash.digest("hex"), size, executable: ((mode ?? 0) & 0o111) !== 0 },
        });
    }
  };
  // The archive is damaged, which is why it is read: what was read before a failure is the answer.
  await Promise.allSettled([list(), pipeline(createReadStream(path), archive)]);
  return found;
}

/** Names the files of a damaged layer that are not what was built. Empty where only its packing differs. */
export async function damagedFiles(
  store: ArtifactStore,
  layer: Digest,
  contents: Digest,
): Promise<FileDifference[]> {
  const { added, removed, changed } = diffContents(
    await readContents(store, contents),
    await listArchive(store.blobPath(layer)),
  );
  return [...changed, ...removed, ...added].slice(0, 20);
}
