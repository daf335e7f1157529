import { readFile, link, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { Digest, parseDigest } from "./digest.ts";
import { listAttestations } from "./provenance.ts";
import { listReferrers } from "./referrers.ts";
import { type ArtifactStore, writeIndex } from "./store.ts";
import { removeTree, syncFolder, temporaryName } from "./temporary.ts";

const Reference = z.object({ digest: Digest });
/** A manifest names config and layers, an index names manifests. */
const Node = z.object({
  schemaVersion: z.literal(2),
  config: Reference.optional(),
  layers: z.array(Reference).optional(),
  manifests: z.array(Reference).optional(),
});
/** What a bundle's config names besides. */
const Config = z.object({
  release: z.object({ sbom: Reference.nullish(), contents: Reference.nullish() }),
});
const nodeLimitBytes = 4 << 20;

/** All blobs, in byte order. */
export async function listDigests(store: ArtifactStore): Promise<Digest[]> {
  const names = await readdir(join(store.folder, "blobs", "sha256"));
  return names.sort().map((hex) => parseDigest(`sha256:${hex}`));
}

/** @returns what the blob refers to, `null` if it is not in the store */
async function childrenOf(store: ArtifactStore, digest: Digest): Promise<Digest[] | null> {
  if (!(await store.has(digest))) return null;
  // Layers and sources are archives, which never begin with a brace that ends in JSON.
  if ((await store.sizeOf(digest)) > nodeLimitBytes) return [];
  let document: unknown;
  try {
    document = JSON.parse(await readFile(store.blobPath(digest), "utf8"));
  } catch (error) {
    if (error instanceof SyntaxError) return [];
    throw error;
  }
  const release = Config.safeParse(document).data?.release;
  if (release) return [release.sbom, release.contents].flatMap((part) => (part ? [part.digest] : []));
  const parsed = Node.safeParse(document);
  if (!parsed.success) return [];
  const { config, layers, manifests } = parsed.data;
  return [...(config ? [config] : []), ...(layers ?? []), ...(manifests ?? [])].map((item) => item.digest);
}

async function reach(store: ArtifactStore, keep: Iterable<Digest>) {
  const reached = new Set<Digest>();
  const missing: Digest[] = [];
  const waiting = [...keep];
  const kept = new Set(waiting);
  for (const { digest, subject } of await listReferrers(store)) if (kept.has(subject)) waiting.push(digest);
  for (let digest = waiting.pop(); digest !== undefined; digest = waiting.pop()) {
    if (reached.has(digest)) continue;
    reached.add(digest);
    const children = await childrenOf(store, digest);
    if (children === null) missing.push(digest);
    else waiting.push(...children, ...(await listAttestations(store, digest)));
  }
  return { reached, missing };
}

export interface Collected {
  removed: Digest[];
  freedBytes: number;
  /** Kept digests, or parts of them, that are not in this store. */
  missing: Digest[];
}

/**
 * Removes every blob that no kept digest leads to, with references and unpacked static files of
 * bundles that are not kept.
 *
 * @param keepDigests bundles and frozen sources in use
 * @param options.graceMs blobs younger than this stay, in milliseconds: a bundle being built has a
 *   layer before it has a manifest. Default one hour.
 */
export async function collectGarbage(
  store: ArtifactStore,
  keepDigests: Iterable<Digest>,
  options: { graceMs?: number } = {},
): Promise<Collected> {
  const newest = Date.now() - (options.graceMs ?? 3_600_000);
  const { reached, missing } = await reach(store, keepDigests);
  const removed: Digest[] = [];
  let freedBytes = 0;
  for (const digest of await listDigests(store)) {
    if (reached.has(digest)) continue;
    const sizeBytes = await removeIfOld(store, digest, newest);
    if (sizeBytes === null) continue;
    removed.push(digest);
    freedBytes += sizeBytes;
  }
  await syncFolder(join(store.folder, "blobs", "sha256"));
  for (const folder of ["refs/bundles", "refs/attestations", "refs/referrers", "static"])
    for (const hex of await readdir(join(store.folder, folder)))
      if (!(await store.has(parseDigest(`sha256:${hex}`)))) await removeTree(join(store.folder, folder, hex));
  await writeIndex(store);
  return { removed, freedBytes, missing };
}

/**
 * Takes the blob away before it looks at its age, and puts it back if a `put` renewed it meanwhile:
 * looking first would remove the renewed file.
 *
 * @returns its size in bytes, `null` if it stays
 */
async function removeIfOld(store: ArtifactStore, digest: Digest, newest: number): Promise<number | null> {
  const blob = store.blobPath(digest);
  const trash = join(store.folder, "tmp", temporaryName());
  try {
    if ((await stat(blob)).mtimeMs > newest) return null;
    await rename(blob, trash);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  const { mtimeMs, size } = await stat(trash);
  if (mtimeMs > newest)
    await link(trash, blob).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
  await rm(trash);
  return mtimeMs > newest ? null : size;
}
