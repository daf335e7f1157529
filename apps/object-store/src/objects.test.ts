import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { test } from "node:test";
import {
  CopyObjectCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetBucketLocationCommand,
  GetObjectCommand,
  GetObjectTorrentCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListBucketsCommand,
  ListObjectsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  type PutObjectCommandInput,
} from "@aws-sdk/client-s3";
import { startTestStore, token } from "./testing-store.ts";

const failsWith = (name: string, status: number) => (error: unknown) => {
  const { name: found, $metadata } = error as { name: string; $metadata: { httpStatusCode: number } };
  assert.deepEqual([found, $metadata.httpStatusCode], [name, status]);
  return true;
};

test("objects come back as they were put, whichever checksum and kind of body the client uses", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket, clientWith } = await store.bucket("one");
  const content = randomBytes(300_000);
  for (const ChecksumAlgorithm of ["CRC32", "CRC32C", "SHA1", "SHA256", "CRC64NVME"] as const) {
    const bodies: [string, PutObjectCommandInput["Body"]][] = [
      ["buffer", content],
      ["stream", Readable.from([content.subarray(0, 100_000), content.subarray(100_000)])],
    ];
    for (const [kind, Body] of bodies) {
      const Key = `${ChecksumAlgorithm}/${kind}`;
      await client.send(
        new PutObjectCommand({
          Bucket,
          Key,
          Body,
          ContentLength: content.length,
          ChecksumAlgorithm,
          Metadata: { a: "b" },
        }),
      );
      const got = await client.send(new GetObjectCommand({ Bucket, Key, ChecksumMode: "ENABLED" }));
      assert.deepEqual(Buffer.from(await got.Body!.transformToByteArray()), content, Key);
      assert.equal(got.ETag, `"${createHash("md5").update(content).digest("hex")}"`);
      assert.deepEqual(got.Metadata, { a: "b" });
      assert.equal(typeof got[`Checksum${ChecksumAlgorithm}`], "string");
    }
  }
  const plain = clientWith({
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
  });
  await plain.send(
    new PutObjectCommand({
      Bucket,
      Key: "plain",
      Body: "x",
      ContentType: "text/plain",
      CacheControl: "no-store",
    }),
  );
  const head = await plain.send(new HeadObjectCommand({ Bucket, Key: "plain" }));
  assert.deepEqual([head.ContentLength, head.ContentType, head.CacheControl], [1, "text/plain", "no-store"]);
  await plain.send(new PutObjectCommand({ Bucket, Key: "empty", Body: "" }));
  const empty = await plain.send(new GetObjectCommand({ Bucket, Key: "empty" }));
  assert.equal(await empty.Body!.transformToString(), "");
  assert.deepEqual(await (await store.admin("GET", "id-one/usage")).json(), {
    bytes: 3_000_001,
    objects: 12,
  });
});

test("ranges and conditions choose what is sent", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket } = await store.bucket("one");
  const Key = "digits";
  const { ETag } = await client.send(new PutObjectCommand({ Bucket, Key, Body: "0123456789" }));
  const get = async (input: object) => {
    const got = await client.send(new GetObjectCommand({ Bucket, Key, ...input }));
    return [await got.Body!.transformToString(), got.ContentRange];
  };
  assert.deepEqual(await get({ Range: "bytes=2-4" }), ["234", "bytes 2-4/10"]);
  assert.deepEqual(await get({ Range: "bytes=7-" }), ["789", "bytes 7-9/10"]);
  assert.deepEqual(await get({ Range: "bytes=-3" }), ["789", "bytes 7-9/10"]);
  assert.deepEqual(await get({ Range: "bytes=5-100" }), ["56789", "bytes 5-9/10"]);
  assert.deepEqual(await get({ IfMatch: ETag }), ["0123456789", undefined]);
  await assert.rejects(get({ Range: "bytes=10-" }), failsWith("InvalidRange", 416));
  await assert.rejects(get({ IfMatch: '"other"' }), failsWith("PreconditionFailed", 412));
  await assert.rejects(get({ IfNoneMatch: ETag }), failsWith("Unknown", 304));
  await assert.rejects(get({ IfModifiedSince: new Date(Date.now() + 1000) }), failsWith("Unknown", 304));
  const put = (input: object) => client.send(new PutObjectCommand({ Bucket, Key, Body: "new", ...input }));
  await assert.rejects(put({ IfNoneMatch: "*" }), failsWith("PreconditionFailed", 412));
  await assert.rejects(put({ IfMatch: '"other"' }), failsWith("PreconditionFailed", 412));
  await put({ IfMatch: ETag });
  assert.deepEqual(await get({}), ["new", undefined]);
});

test("odd keys are kept apart and never leave the store", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket } = await store.bucket("one");
  const keys = [
    "a",
    "a/b",
    "a//b",
    "a/",
    "a/./b",
    "a/../b",
    "x/../../../../etc/passwd",
    "ünï/ço dé",
    "plus+and space&<>\"'",
    "q?x=1#y%20z",
    "*()!~'",
    "😀",
    "k".repeat(1024),
  ];
  for (const Key of keys) await client.send(new PutObjectCommand({ Bucket, Key, Body: Key }));
  for (const Key of keys) {
    const got = await client.send(new GetObjectCommand({ Bucket, Key }));
    assert.equal(await got.Body!.transformToString(), Key);
  }
  const listed = await client.send(new ListObjectsV2Command({ Bucket, EncodingType: "url" }));
  const found = listed.Contents!.map(({ Key }) => decodeURIComponent(Key!));
  const inByteOrder = [...keys].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  assert.deepEqual(found, inByteOrder);
  const plain = await client.send(new ListObjectsCommand({ Bucket }));
  assert.deepEqual(
    plain.Contents!.map(({ Key }) => Key),
    inByteOrder,
  );
  const tooLong = client.send(new PutObjectCommand({ Bucket, Key: "k".repeat(1025), Body: "" }));
  await assert.rejects(tooLong, failsWith("KeyTooLongError", 400));
  const { Deleted, Errors } = await client.send(
    new DeleteObjectsCommand({ Bucket, Delete: { Objects: [...keys, "absent"].map((Key) => ({ Key })) } }),
  );
  assert.equal(Errors, undefined);
  assert.deepEqual(
    Deleted!.map(({ Key }) => Key),
    [...keys, "absent"],
  );
  assert.deepEqual(await (await store.admin("GET", "id-one/usage")).json(), { bytes: 0, objects: 0 });
});

test("listings page through keys and groups without loss or repetition", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket } = await store.bucket("one");
  const keys = ["a/1", "a/2", "a/3", "b", "c/1", "c-1", "d/1", "d/2", "e"];
  for (const Key of keys) await client.send(new PutObjectCommand({ Bucket, Key, Body: "x" }));
  for (const MaxKeys of [1, 2, 3, 100]) {
    const found: string[] = [];
    let token: string | undefined;
    do {
      const page = await client.send(
        new ListObjectsV2Command({ Bucket, Delimiter: "/", MaxKeys, ContinuationToken: token }),
      );
      assert.ok(page.KeyCount! <= MaxKeys);
      found.push(
        ...(page.Contents ?? []).map(({ Key }) => Key!),
        ...(page.CommonPrefixes ?? []).map(({ Prefix }) => Prefix!),
      );
      token = page.NextContinuationToken;
    } while (token !== undefined);
    assert.deepEqual(found.sort(), ["a/", "b", "c-1", "c/", "d/", "e"]);
    const marked: string[] = [];
    let Marker: string | undefined;
    do {
      const page = await client.send(new ListObjectsCommand({ Bucket, Delimiter: "/", MaxKeys, Marker }));
      marked.push(
        ...(page.Contents ?? []).map(({ Key }) => Key!),
        ...(page.CommonPrefixes ?? []).map(({ Prefix }) => Prefix!),
      );
      Marker = page.NextMarker;
    } while (Marker !== undefined);
    assert.deepEqual(marked.sort(), found);
  }
  const within = await client.send(new ListObjectsV2Command({ Bucket, Prefix: "a/", StartAfter: "a/1" }));
  assert.deepEqual(
    within.Contents!.map(({ Key }) => Key),
    ["a/2", "a/3"],
  );
  const admin = await (await store.admin("GET", "id-one/objects?prefix=d/&limit=1")).json();
  assert.equal((admin as { nextMarker: string }).nextMarker, "d/1");
});

test("copies share no fate with their source", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket } = await store.bucket("one");
  await client.send(new PutObjectCommand({ Bucket, Key: "a b/ü", Body: "content", Metadata: { x: "1" } }));
  const CopySource = `${Bucket}/${encodeURIComponent("a b/ü")}`;
  await client.send(new CopyObjectCommand({ Bucket, Key: "copy", CopySource }));
  const replace = { MetadataDirective: "REPLACE", Metadata: { y: "2" }, ContentType: "text/css" } as const;
  await client.send(new CopyObjectCommand({ Bucket, Key: "replaced", CopySource, ...replace }));
  await client.send(new DeleteObjectCommand({ Bucket, Key: "a b/ü" }));
  const copy = await client.send(new GetObjectCommand({ Bucket, Key: "copy" }));
  assert.deepEqual([await copy.Body!.transformToString(), copy.Metadata], ["content", { x: "1" }]);
  const replaced = await client.send(new HeadObjectCommand({ Bucket, Key: "replaced" }));
  assert.deepEqual([replaced.Metadata, replaced.ContentType], [{ y: "2" }, "text/css"]);
  const absent = client.send(new CopyObjectCommand({ Bucket, Key: "x", CopySource: `${Bucket}/absent` }));
  await assert.rejects(absent, failsWith("NoSuchKey", 404));
});

test("a quota is exact, and replacing an object counts the difference", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket } = await store.bucket("one", { quotaBytes: 100 });
  const put = (Key: string, size: number) =>
    client.send(new PutObjectCommand({ Bucket, Key, Body: Buffer.alloc(size) }));
  await put("a", 60);
  await put("a", 40);
  await put("b", 60);
  await assert.rejects(put("c", 1), failsWith("QuotaExceeded", 403));
  const racing = await Promise.allSettled([
    put("b", 0).then(() => put("x", 60)),
    put("b", 0).then(() => put("y", 60)),
  ]);
  assert.ok(racing.some(({ status }) => status === "rejected"));
  const { bytes } = (await (await store.admin("GET", "id-one/usage")).json()) as { bytes: number };
  assert.ok(bytes <= 100);
});

test("what is not implemented or not there says so", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket } = await store.bucket("one");
  await client.send(new HeadBucketCommand({ Bucket }));
  assert.equal((await client.send(new GetBucketLocationCommand({ Bucket }))).LocationConstraint, undefined);
  assert.deepEqual(
    (await client.send(new ListBucketsCommand({}))).Buckets!.map(({ Name }) => Name),
    [Bucket],
  );
  const torrent = client.send(new GetObjectTorrentCommand({ Bucket, Key: "a" }));
  await assert.rejects(torrent, failsWith("NotImplemented", 501));
  await assert.rejects(
    client.send(new GetObjectCommand({ Bucket, Key: "absent" })),
    failsWith("NoSuchKey", 404),
  );
  await assert.rejects(
    client.send(new HeadObjectCommand({ Bucket, Key: "absent" })),
    failsWith("NotFound", 404),
  );
  const missing = client.send(new ListObjectsV2Command({ Bucket: "absent" }));
  await assert.rejects(missing, failsWith("NoSuchBucket", 404));
  const response = await fetch(`${store.url}/one/secret`);
  const text = await response.text();
  assert.equal(response.status, 403);
  assert.match(text, /<Error><Code>AccessDenied<\/Code>.*<RequestId>[0-9A-F]{16}<\/RequestId><\/Error>/);
  assert.equal(response.headers.get("server"), null);
});

test("the control plane reads, writes and deletes objects and buckets with its token only", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket } = await store.bucket("one");
  const url = `${store.url}/internal/buckets/id-one/objects/${encodeURIComponent("dir/a b")}`;
  const headers = { authorization: `Bearer ${token}`, "content-type": "text/plain" };
  assert.equal((await fetch(url, { method: "PUT", headers, body: "hello" })).status, 200);
  const got = await client.send(new GetObjectCommand({ Bucket, Key: "dir/a b" }));
  assert.deepEqual([await got.Body!.transformToString(), got.ContentType], ["hello", "text/plain"]);
  assert.equal(await (await fetch(url, { headers })).text(), "hello");
  assert.equal((await fetch(url)).status, 401);
  assert.equal((await fetch(url, { method: "DELETE", headers })).status, 204);
  assert.equal((await fetch(url, { headers })).status, 404);
  assert.equal((await store.admin("PUT", "other", { name: "one" })).status, 409);
  assert.equal((await store.admin("PUT", "other", { name: "internal" })).status, 400);
  assert.equal((await store.admin("DELETE", "id-one")).status, 204);
  assert.equal((await store.admin("GET", "id-one")).status, 404);
});
