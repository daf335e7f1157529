import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test } from "node:test";
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListPartsCommand,
  PutObjectCommand,
  type S3Client,
  UploadPartCommand,
  UploadPartCopyCommand,
} from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { createPool } from "@platform/postgres";
import { DiskBlobs } from "./blobs.ts";
import { startTestStore } from "./testing-store.ts";

const partBytes = 5 << 20;
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** Where content lies upstream, the tests of that count it. */
const isUpstream = process.env["OBJECT_STORE_TEST_UPSTREAM"] === "1";

async function assertBlobs(dataDir: string, count: number): Promise<void> {
  if (!isUpstream) assert.equal(await blobCount(dataDir), count);
}

async function blobCount(dataDir: string): Promise<number> {
  const names = await readdir(join(dataDir, "blobs"), { recursive: true });
  return names.filter((name) => name.includes("/")).length;
}

async function begin(client: S3Client, Bucket: string, Key: string): Promise<string> {
  return (await client.send(new CreateMultipartUploadCommand({ Bucket, Key }))).UploadId!;
}

test("an upload in parts becomes one object with its parts' content in order", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket } = await store.bucket("one");
  const content = randomBytes(2 * partBytes + 12_345);
  const Key = "large file";
  const Body = Readable.from(
    Array.from({ length: 22 }, (_, at) => content.subarray(at * 500_000, (at + 1) * 500_000)),
  );
  await new Upload({ client, params: { Bucket, Key, Body, ContentType: "x/y" }, partSize: partBytes }).done();
  const got = await client.send(new GetObjectCommand({ Bucket, Key, ChecksumMode: "ENABLED" }));
  assert.equal(sha256(await got.Body!.transformToByteArray()), sha256(content));
  assert.match(got.ETag!, /^"[0-9a-f]{32}-3"$/);
  assert.equal(got.ContentType, "x/y");
  const first = partBytes - 10;
  const range = await client.send(
    new GetObjectCommand({ Bucket, Key, Range: `bytes=${first}-${2 * partBytes + 5}` }),
  );
  const across = Buffer.from(await range.Body!.transformToByteArray());
  assert.ok(across.equals(content.subarray(first, 2 * partBytes + 6)));
  assert.deepEqual(await (await store.admin("GET", "id-one/usage")).json(), {
    bytes: content.length,
    objects: 1,
  });
  await client.send(new DeleteObjectCommand({ Bucket, Key }));
  await assertBlobs(store.dataDir, 0);
});

test("a part is copied from an object, whole or a range of it", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket } = await store.bucket("one");
  await store.bucket("two");
  const content = randomBytes(partBytes + 100_000);
  await client.send(new PutObjectCommand({ Bucket, Key: "source/ü", Body: content }));
  const UploadId = await begin(client, Bucket, "copy");
  const CopySource = `${Bucket}/source/${encodeURIComponent("ü")}`;
  const copy = (PartNumber: number, CopySourceRange?: string, source = CopySource) =>
    client.send(
      new UploadPartCopyCommand({
        Bucket,
        Key: "copy",
        UploadId,
        PartNumber,
        CopySource: source,
        CopySourceRange,
      }),
    );
  const first = await copy(1);
  const second = await copy(2, "bytes=10-99");
  await assert.rejects(copy(3, `bytes=10-${content.length}`), { name: "InvalidRange" });
  await assert.rejects(copy(3, "bytes=10-"), { name: "InvalidArgument" });
  await assert.rejects(copy(3, undefined, "two/a"), { name: "AccessDenied" });
  await assert.rejects(copy(3, undefined, `${Bucket}/absent`), { name: "NoSuchKey" });
  const Parts = [first, second].map(({ CopyPartResult }, at) => ({
    PartNumber: at + 1,
    ETag: CopyPartResult!.ETag,
  }));
  await client.send(
    new CompleteMultipartUploadCommand({ Bucket, Key: "copy", UploadId, MultipartUpload: { Parts } }),
  );
  const got = await client.send(new GetObjectCommand({ Bucket, Key: "copy" }));
  const wanted = Buffer.concat([content, content.subarray(10, 100)]);
  assert.equal(sha256(await got.Body!.transformToByteArray()), sha256(wanted));
});

test("parts are listed, replaced, checked on completion, and removed on abort", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket } = await store.bucket("one");
  const Key = "a/b";
  const UploadId = await begin(client, Bucket, Key);
  const part = (PartNumber: number, Body: Uint8Array | string) =>
    client.send(new UploadPartCommand({ Bucket, Key, UploadId, PartNumber, Body }));
  await part(1, "replaced");
  const one = await part(1, Buffer.alloc(partBytes, 1));
  const two = await part(2, "tail");
  const listed = await client.send(new ListPartsCommand({ Bucket, Key, UploadId }));
  assert.deepEqual(
    listed.Parts!.map(({ Size }) => Size),
    [partBytes, 4],
  );
  const uploads = await client.send(new ListMultipartUploadsCommand({ Bucket }));
  assert.deepEqual(
    uploads.Uploads!.map((item) => item.UploadId),
    [UploadId],
  );
  await assert.rejects(client.send(new HeadObjectCommand({ Bucket, Key })), { name: "NotFound" });

  const complete = (Parts: { PartNumber: number; ETag?: string }[]) =>
    client.send(new CompleteMultipartUploadCommand({ Bucket, Key, UploadId, MultipartUpload: { Parts } }));
  const [first, second] = [
    { PartNumber: 1, ETag: one.ETag },
    { PartNumber: 2, ETag: two.ETag },
  ];
  await assert.rejects(complete([second, first]), { name: "InvalidPartOrder" });
  await assert.rejects(complete([first, { PartNumber: 3, ETag: two.ETag }]), { name: "InvalidPart" });
  await assert.rejects(complete([{ ...first, ETag: two.ETag }]), { name: "InvalidPart" });
  const both = await Promise.allSettled([complete([first, second]), complete([first, second])]);
  assert.deepEqual(both.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  await assert.rejects(part(3, "late"), { name: "NoSuchUpload" });
  await assertBlobs(store.dataDir, 2);

  const small = await begin(client, Bucket, "small");
  const parts = [];
  for (const PartNumber of [1, 2]) {
    const sent = { Bucket, Key: "small", UploadId: small, PartNumber, Body: "tiny" };
    parts.push({ PartNumber, ETag: (await client.send(new UploadPartCommand(sent))).ETag });
  }
  const tooSmall = { Bucket, Key: "small", UploadId: small, MultipartUpload: { Parts: parts } };
  await assert.rejects(client.send(new CompleteMultipartUploadCommand(tooSmall)), { name: "EntityTooSmall" });
  await client.send(new AbortMultipartUploadCommand({ Bucket, Key: "small", UploadId: small }));
  await assertBlobs(store.dataDir, 2);
  const usage = await (await store.admin("GET", "id-one/usage")).json();
  assert.deepEqual(usage, { bytes: partBytes + 4, objects: 1 });
});

test("a start ends uploads that were forgotten for a week and gives their bytes back", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket } = await store.bucket("one");
  for (const Key of ["old", "new"]) {
    const UploadId = await begin(client, Bucket, Key);
    await client.send(new UploadPartCommand({ Bucket, Key, UploadId, PartNumber: 1, Body: "12345" }));
  }
  const pool = createPool(store.databaseUrl);
  t.after(() => pool.end());
  await pool.query(
    "update object_store.uploads set created_at = now() - interval '8 days' where key = 'old'",
  );
  await store.restart();
  assert.deepEqual(await (await store.admin("GET", "id-one/usage")).json(), { bytes: 5, objects: 0 });
  await assertBlobs(store.dataDir, 1);
});

test(
  "a start removes what no row names once it is old, and nothing else",
  { skip: isUpstream },
  async (t) => {
    const store = await startTestStore(t);
    const { client, name: Bucket } = await store.bucket("one");
    await client.send(new PutObjectCommand({ Bucket, Key: "kept", Body: "kept" }));
    const blobs = await DiskBlobs.open(store.dataDir);
    const source = (async function* () {
      yield Buffer.from("orphan");
    })();
    const orphan = await blobs.write(source, () => undefined);
    const known = new Set(
      (await readdir(join(store.dataDir, "blobs"), { recursive: true })).map((name) => name.slice(3)),
    );
    known.delete(orphan.blob);
    const findKnown = (names: string[]) => Promise.resolve(new Set(names.filter((name) => known.has(name))));
    assert.equal(await blobs.sweep(Date.now() - 3_600_000, findKnown), 0);
    assert.equal(await blobs.sweep(Date.now() + 60_000, findKnown), 1);
    assert.equal(await blobs.exists(orphan), false);
    await store.restart();
    await assertBlobs(store.dataDir, 1);
  },
);
