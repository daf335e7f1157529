import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile, truncate } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import {
  assembleChunks,
  ChunksMissingError,
  cutIntoChunks,
  cutStream,
  DigestMismatchError,
  largestChunk,
  openArtifactStore,
  putChunk,
  type Digest,
} from "./index.ts";
import { temporaryFolder } from "./testing-folder.ts";

/** The same bytes on every run. */
function bytesOf(sizeBytes: number): Buffer {
  const parts = [];
  for (let at = 0; at < sizeBytes; at += 32) parts.push(createHash("sha256").update(`seed ${at}`).digest());
  return Buffer.concat(parts).subarray(0, sizeBytes);
}
const digest = (bytes: Uint8Array): Digest => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
const content = bytesOf(12 << 20);

test("chunks are all of the bytes, in order, and none is over a proxy's limit", () => {
  const chunks = cutIntoChunks(content);
  assert.equal(
    chunks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    content.length,
  );
  assert.ok(chunks.every(({ sizeBytes }) => sizeBytes <= largestChunk));
  assert.deepEqual(cutIntoChunks(content), chunks);
  assert.deepEqual(cutIntoChunks(Buffer.alloc(0)), []);
});

test("after an insertion at the front nearly all chunks are the same", () => {
  const before = new Set(cutIntoChunks(content).map((one) => one.digest));
  const after = cutIntoChunks(Buffer.concat([Buffer.from("one more line\n"), content]));
  const fresh = after.filter((one) => !before.has(one.digest));
  assert.ok(fresh.length <= 2, `${fresh.length} of ${after.length} chunks differ`);
});

test("a stream is cut where the whole is, however it comes", async () => {
  const large = Buffer.concat(
    Array.from({ length: 12 }, (_, at) => Buffer.concat([Buffer.from([at]), content])),
  );
  for (const size of [1000, 65_536, 3_000_001, large.length]) {
    const parts = async function* () {
      for (let at = 0; at < large.length; at += size) yield large.subarray(at, at + size);
    };
    const found = [];
    for await (const { content: bytes, ...chunk } of cutStream(parts())) {
      assert.equal(chunk.digest, digest(bytes));
      found.push(chunk);
    }
    assert.deepEqual(found, cutIntoChunks(large));
  }
});

test("chunks become one blob once all are there, and what is missing or torn is named", async (t) => {
  const store = await openArtifactStore(await temporaryFolder(t));
  const chunks = cutIntoChunks(content);
  const part = ({ offset, sizeBytes }: { offset: number; sizeBytes: number }) =>
    content.subarray(offset, offset + sizeBytes);
  for (const chunk of chunks.slice(1)) await putChunk(store, chunk.digest, part(chunk));
  const digests = chunks.map((one) => one.digest);
  const isMissing = (wanted: Digest[]) => (error: unknown) => {
    assert.ok(error instanceof ChunksMissingError);
    assert.deepEqual(error.details.missing, wanted);
    return true;
  };
  await assert.rejects(assembleChunks(store, digests, digest(content)), isMissing([digests[0]!]));
  await putChunk(store, digests[0]!, part(chunks[0]!));
  // As a power cut may leave it.
  await truncate(join(store.folder, "chunks", digests[3]!.slice(7)), 10);
  await assert.rejects(assembleChunks(store, digests, digest(content)), isMissing([digests[3]!]));
  await putChunk(store, digests[3]!, part(chunks[3]!));
  const whole = await assembleChunks(store, digests, digest(content));
  assert.ok((await readFile(store.blobPath(whole.digest))).equals(content));
  await assert.rejects(assembleChunks(store, digests.slice(1), digest(content)), DigestMismatchError);
  await assert.rejects(putChunk(store, digests[0]!, Buffer.from("other")), DigestMismatchError);
});
