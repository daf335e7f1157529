import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Digest, digestOf, hexOf } from "./digest.ts";
import { ChunksMissingError, DigestMismatchError } from "./errors.ts";
import type { ArtifactStore } from "./store.ts";
import { temporaryName } from "./temporary.ts";

/** Most bytes of a chunk: with its headers it passes proxies that allow 1 MB. */
export const largestChunk = 960 * 1024;

const placeOf = (store: ArtifactStore, digest: Digest) => join(store.folder, "chunks", hexOf(digest));

/**
 * Keeps a part of an upload. Not flushed to disk: what a power cut takes away is asked for again when the
 * upload is put together.
 *
 * @throws DigestMismatchError
 */
export async function putChunk(store: ArtifactStore, digest: Digest, content: Uint8Array): Promise<void> {
  const found = digestOf(content);
  if (found !== digest || content.length > largestChunk) throw new DigestMismatchError(digest, found);
  await mkdir(join(store.folder, "chunks"), { recursive: true });
  const temporary = join(store.folder, "tmp", temporaryName());
  const handle = await open(temporary, "wx", 0o600);
  try {
    await handle.writeFile(content);
  } finally {
    await handle.close();
  }
  await rename(temporary, placeOf(store, digest));
}

/** The chunk as it was sent, or null if it is not here whole. */
async function readChunk(store: ArtifactStore, digest: Digest): Promise<Buffer | null> {
  const parts: Buffer[] = [];
  const hash = createHash("sha256");
  try {
    for await (const part of createReadStream(placeOf(store, digest)) as AsyncIterable<Buffer>) {
      hash.update(part);
      parts.push(part);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  return hash.digest("hex") === hexOf(digest) ? Buffer.concat(parts) : null;
}

/**
 * Makes one blob of chunks, in their order. Nothing is stored unless every byte is right.
 *
 * @throws ChunksMissingError naming what is to be sent again, DigestMismatchError
 */
export async function assembleChunks(
  store: ArtifactStore,
  chunks: readonly Digest[],
  wanted: Digest,
): Promise<{ digest: Digest; sizeBytes: number }> {
  const missing = new Set<Digest>();
  const whole = createHash("sha256");
  for (const digest of chunks) {
    const content = await readChunk(store, digest);
    if (content) whole.update(content);
    else missing.add(digest);
  }
  if (missing.size > 0) throw new ChunksMissingError([...missing]);
  const found: Digest = `sha256:${whole.digest("hex")}`;
  if (found !== wanted) throw new DigestMismatchError(wanted, found);
  return store.put(
    (async function* () {
      for (const digest of chunks) {
        const content = await readChunk(store, digest);
        if (!content) throw new ChunksMissingError([digest]);
        yield content;
      }
    })(),
  );
}

/** Resolves also for chunks that are not there. */
export async function removeChunks(store: ArtifactStore, chunks: readonly Digest[]): Promise<void> {
  for (const digest of chunks) await rm(placeOf(store, digest), { force: true });
}

export interface Chunk {
  readonly digest: Digest;
  readonly offset: number;
  readonly sizeBytes: number;
}

const smallestCut = 128 * 1024;
const largestCut = 768 * 1024;
/** Bytes of a stream that are held before they are cut, so that they are not copied for each chunk. */
const gatheredBytes = 8 * 1024 * 1024;
/** One place in 2^18 is a cut, so that chunks have some 384 KiB. */
const cutMask = 0xffff_c000;
/** Fixed random-looking numbers, one a byte value: both ends of time cut alike. */
const gear = Uint32Array.from({ length: 256 }, (_, byte) =>
  createHash("sha256").update(`gear ${byte}`).digest().readUInt32BE(0),
);

/**
 * Cuts bytes where their content says so: after an insertion the same chunks follow, only further on.
 * @see https://www.usenix.org/system/files/conference/atc16/atc16-paper-xia.pdf
 */
export function cutIntoChunks(bytes: Uint8Array): Chunk[] {
  const chunks: Chunk[] = [];
  for (let offset = 0; offset < bytes.length;) {
    const end = cutAfter(bytes, offset);
    const content = bytes.subarray(offset, end);
    chunks.push({ digest: digestOf(content), offset, sizeBytes: content.length });
    offset = end;
  }
  return chunks;
}

export interface ChunkWithContent extends Chunk {
  readonly content: Buffer;
}

/** The same cuts of a stream, which is never whole in memory. */
export async function* cutStream(source: AsyncIterable<Uint8Array>): AsyncGenerator<ChunkWithContent> {
  let offset = 0;
  let parts: Uint8Array[] = [];
  let held = 0;
  // A cut is only certain where the longest chunk would fit, or the stream has ended.
  function* cut(isEnd: boolean): Generator<ChunkWithContent> {
    const bytes = Buffer.concat(parts);
    let from = 0;
    while (isEnd ? from < bytes.length : bytes.length - from >= largestCut) {
      const content = bytes.subarray(from, cutAfter(bytes, from));
      yield { digest: digestOf(content), offset: offset + from, sizeBytes: content.length, content };
      from += content.length;
    }
    offset += from;
    parts = [bytes.subarray(from)];
    held = bytes.length - from;
  }
  for await (const part of source) {
    parts.push(part);
    held += part.length;
    if (held >= gatheredBytes) yield* cut(false);
  }
  yield* cut(true);
}

function cutAfter(bytes: Uint8Array, offset: number): number {
  const last = Math.min(bytes.length, offset + largestCut);
  let hash = 0;
  for (let at = offset + smallestCut; at < last; at++) {
    hash = ((hash << 1) + gear[bytes[at]!]!) >>> 0;
    if ((hash & cutMask) === 0) return at + 1;
  }
  return last;
}
