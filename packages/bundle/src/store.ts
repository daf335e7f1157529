import { createHash } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { z } from "zod";
import { type Digest, digestOf, hexOf, parseDigest } from "./digest.ts";
import { ArtifactMissingError, type BlobRole, BundleTamperedError, NotABundleError } from "./errors.ts";

import { removeAbandoned, syncFolder, temporaryName } from "./temporary.ts";

export const manifestType = "application/vnd.oci.image.manifest.v1+json";

/** Most bytes of a blob that is read into memory. */
const jsonLimitBytes = 4 << 20;
/** Bytes gathered before a write, so that an archive of small files is not one write per file. */
const writeBytes = 256 << 10;

export interface Stored {
  digest: Digest;
  sizeBytes: number;
}

/**
 * Blobs of one machine in an OCI image layout, named by their sha256. Many processes may share a
 * folder: each file appears whole, by rename, and equal content is the same file.
 */
export interface ArtifactStore {
  readonly folder: string;
  has(digest: Digest): Promise<boolean>;
  blobPath(digest: Digest): string;
  /** @returns bytes @throws ArtifactMissingError */
  sizeOf(digest: Digest): Promise<number>;
  /**
   * Reads a small blob, checking its digest.
   * @throws ArtifactMissingError, BundleTamperedError, NotABundleError if it is not such a document
   */
  readJson<T extends z.ZodType>(digest: Digest, schema: T, role?: BlobRole): Promise<z.output<T>>;
  /** Returns once the blob survives a power cut. Nothing is visible if the source fails. */
  put(source: AsyncIterable<Uint8Array> | Uint8Array): Promise<Stored>;
  /** Resolves also if there is no such blob. */
  remove(digest: Digest): Promise<void>;
}

/** Writes a small file whole: temp, fsync, rename, fsync of the folder. */
export async function writeWhole(store: { folder: string }, path: string, text: string): Promise<void> {
  const temporary = join(store.folder, "tmp", temporaryName());
  const handle = await open(temporary, "wx", 0o644);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
  await syncFolder(join(path, ".."));
}

async function writeBlob(
  temporary: string,
  source: AsyncIterable<Uint8Array> | Uint8Array,
): Promise<{ hex: string; sizeBytes: number }> {
  const hash = createHash("sha256");
  let sizeBytes = 0;
  const handle = await open(temporary, "wx", 0o644);
  try {
    let pending: Uint8Array[] = [];
    let pendingBytes = 0;
    const flush = async () => {
      const bytes = pending.length === 1 ? pending[0]! : Buffer.concat(pending, pendingBytes);
      pending = [];
      pendingBytes = 0;
      for (let at = 0; at < bytes.length;) at += (await handle.write(bytes, at)).bytesWritten;
    };
    for await (const chunk of source instanceof Uint8Array ? [source] : source) {
      hash.update(chunk);
      sizeBytes += chunk.length;
      pending.push(chunk);
      pendingBytes += chunk.length;
      if (pendingBytes >= writeBytes) await flush();
    }
    if (pendingBytes > 0) await flush();
    await handle.sync();
  } finally {
    await handle.close();
  }
  return { hex: hash.digest("hex"), sizeBytes };
}

/** Opens the store, making it if it is new, and removes what killed processes left half-written. */
export async function openArtifactStore(folder: string): Promise<ArtifactStore> {
  const blobs = join(folder, "blobs", "sha256");
  const blobPath = (digest: Digest) => join(blobs, hexOf(digest));
  for (const name of ["tmp", "static", "refs/bundles", "refs/attestations", "refs/referrers"])
    await mkdir(join(folder, name), { recursive: true });
  await mkdir(blobs, { recursive: true });
  await removeAbandoned(join(folder, "tmp"));
  const files = await readdir(folder);
  if (!files.includes("oci-layout"))
    await writeWhole({ folder }, join(folder, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`);

  const sizeOf = async (digest: Digest) => {
    try {
      return (await stat(blobPath(digest))).size;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") throw new ArtifactMissingError(digest);
      throw error;
    }
  };
  const store: ArtifactStore = {
    folder,
    blobPath,
    sizeOf,
    has: async (digest) => {
      try {
        await sizeOf(digest);
        return true;
      } catch (error) {
        if (error instanceof ArtifactMissingError) return false;
        throw error;
      }
    },
    readJson: async (digest, schema, role = "manifest") => {
      if ((await sizeOf(digest)) > jsonLimitBytes) throw new NotABundleError(`${digest} is no ${role}.`);
      const text = await readFile(blobPath(digest));
      const found = digestOf(text);
      if (found !== digest) throw new BundleTamperedError(role, digest, found);
      return parseJson(digest, text, schema, role);
    },
    put: async (source) => {
      const temporary = join(folder, "tmp", temporaryName());
      try {
        const { hex, sizeBytes } = await writeBlob(temporary, source);
        // Also over an equal blob: the fresh file is one that a garbage collection spares.
        await rename(temporary, join(blobs, hex));
        await syncFolder(blobs);
        return { digest: parseDigest(`sha256:${hex}`), sizeBytes };
      } catch (error) {
        await rm(temporary, { force: true });
        throw error;
      }
    },
    remove: async (digest) => {
      for (const kind of ["bundles", "referrers"])
        await rm(join(folder, "refs", kind, hexOf(digest)), { force: true });
      await rm(blobPath(digest), { force: true });
      await syncFolder(blobs);
    },
  };
  if (!files.includes("index.json")) await writeIndex(store);
  return store;
}

function parseJson<T extends z.ZodType>(digest: Digest, text: Buffer, schema: T, role: string): z.output<T> {
  try {
    return schema.parse(JSON.parse(text.toString("utf8")));
  } catch (error) {
    throw new NotABundleError(`${digest} is no ${role} that this version can read.`, { cause: error });
  }
}

/** Marks the manifest as a bundle, so that `index.json` and other tools of the format find it. */
export async function addReference(store: ArtifactStore, stored: Stored): Promise<void> {
  await writeWhole(
    store,
    join(store.folder, "refs", "bundles", hexOf(stored.digest)),
    JSON.stringify({ sizeBytes: stored.sizeBytes }),
  );
  await writeIndex(store);
}

async function readReferences(store: ArtifactStore) {
  const manifests = [];
  for (const kind of ["bundles", "referrers"]) {
    for (const hex of (await readdir(join(store.folder, "refs", kind))).sort()) {
      const digest = parseDigest(`sha256:${hex}`);
      try {
        manifests.push({ mediaType: manifestType, digest, size: await store.sizeOf(digest) });
      } catch (error) {
        if (!(error instanceof ArtifactMissingError)) throw error;
      }
    }
  }
  return manifests;
}

/**
 * Writes `index.json` from `refs/`. Needs no lock: whoever writes last looks again after its write,
 * so that the last file written always agrees with the references.
 */
export async function writeIndex(store: ArtifactStore): Promise<void> {
  const mediaType = "application/vnd.oci.image.index.v1+json";
  const render = async () =>
    JSON.stringify({ schemaVersion: 2, mediaType, manifests: await readReferences(store) });
  let written = null;
  for (let round = 0; round < 100; round++) {
    const wanted = await render();
    if (wanted === written) return;
    await writeWhole(store, join(store.folder, "index.json"), wanted);
    written = wanted;
  }
}
