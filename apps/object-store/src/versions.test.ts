import assert from "node:assert/strict";
import { test } from "node:test";
import {
  CopyObjectCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetBucketVersioningCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  PutBucketVersioningCommand,
  PutObjectCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import { startTestStore } from "./testing-store.ts";

const Bucket = "one";
const put = async (client: S3Client, Key: string, Body: string) =>
  (await client.send(new PutObjectCommand({ Bucket, Key, Body }))).VersionId;
const read = async (client: S3Client, Key: string, VersionId?: string) => {
  const { Body } = await client.send(new GetObjectCommand({ Bucket, Key, VersionId }));
  return Body!.transformToString();
};
const setVersioning = (client: S3Client, Status: "Enabled" | "Suspended") =>
  client.send(new PutBucketVersioningCommand({ Bucket, VersioningConfiguration: { Status } }));
const usage = async (store: { admin(method: string, path: string): Promise<Response> }) =>
  (await (await store.admin("GET", "id-one/usage")).json()) as { bytes: number; objects: number };

test("a bucket keeps every version from the moment that it is told to", async (t) => {
  const store = await startTestStore(t);
  const { client } = await store.bucket(Bucket);
  assert.equal((await client.send(new GetBucketVersioningCommand({ Bucket }))).Status, undefined);
  assert.equal(await put(client, "a", "before"), undefined);
  await setVersioning(client, "Enabled");
  assert.equal((await client.send(new GetBucketVersioningCommand({ Bucket }))).Status, "Enabled");
  const first = await put(client, "a", "first");
  const second = await put(client, "a", "second");
  assert.notEqual(first, second);
  assert.equal(await read(client, "a"), "second");
  assert.equal(await read(client, "a", first), "first");
  assert.equal(await read(client, "a", "null"), "before");
  assert.equal((await client.send(new HeadObjectCommand({ Bucket, Key: "a" }))).VersionId, second);
  assert.deepEqual(await usage(store), { bytes: 17, objects: 1 });

  const mark = await client.send(new DeleteObjectCommand({ Bucket, Key: "a" }));
  assert.equal(mark.DeleteMarker, true);
  await assert.rejects(read(client, "a"), { name: "NoSuchKey" });
  await assert.rejects(read(client, "a", mark.VersionId), { name: "MethodNotAllowed" });
  await assert.rejects(read(client, "a", "absent"), { name: "NoSuchVersion" });
  assert.equal((await client.send(new ListObjectsV2Command({ Bucket }))).KeyCount, 0);
  assert.deepEqual(await usage(store), { bytes: 17, objects: 0 });

  await client.send(new DeleteObjectCommand({ Bucket, Key: "a", VersionId: mark.VersionId }));
  assert.equal(await read(client, "a"), "second");
  await client.send(new DeleteObjectCommand({ Bucket, Key: "a", VersionId: second }));
  assert.equal(await read(client, "a"), "first");
  await client.send(new CopyObjectCommand({ Bucket, Key: "b", CopySource: `${Bucket}/a?versionId=null` }));
  assert.equal(await read(client, "b"), "before");
  assert.deepEqual(await usage(store), { bytes: 17, objects: 2 });
});

test("a bucket that stopped keeping versions replaces the one without an id, and only that", async (t) => {
  const store = await startTestStore(t);
  const { client } = await store.bucket(Bucket);
  await setVersioning(client, "Enabled");
  const kept = await put(client, "a", "kept");
  await setVersioning(client, "Suspended");
  assert.equal(await put(client, "a", "one"), "null");
  assert.equal(await put(client, "a", "two"), "null");
  assert.equal(await read(client, "a", kept), "kept");
  const mark = await client.send(new DeleteObjectCommand({ Bucket, Key: "a" }));
  assert.deepEqual([mark.VersionId, mark.DeleteMarker], ["null", true]);
  const { Versions, DeleteMarkers } = await client.send(new ListObjectVersionsCommand({ Bucket }));
  assert.deepEqual(
    Versions!.map(({ VersionId, IsLatest }) => [VersionId, IsLatest]),
    [[kept, false]],
  );
  assert.deepEqual(
    DeleteMarkers!.map(({ VersionId, IsLatest }) => [VersionId, IsLatest]),
    [["null", true]],
  );
  assert.deepEqual(await usage(store), { bytes: 4, objects: 0 });
});

test("versions are listed newest first, in pages and groups that lose and repeat none", async (t) => {
  const store = await startTestStore(t);
  const { client } = await store.bucket(Bucket);
  await setVersioning(client, "Enabled");
  const written: string[] = [];
  for (const Key of ["a", "dir/x", "dir/y", "z"])
    for (const body of ["1", "2", "3"]) written.push(`${Key} ${await put(client, Key, body)}`);
  await client.send(new DeleteObjectCommand({ Bucket, Key: "z" }));
  const seen: string[] = [];
  let markers: { KeyMarker?: string; VersionIdMarker?: string } = {};
  for (let page = 0; page < 20; page++) {
    const listed = await client.send(new ListObjectVersionsCommand({ Bucket, MaxKeys: 2, ...markers }));
    seen.push(...(listed.Versions ?? []).map(({ Key, VersionId }) => `${Key} ${VersionId}`));
    if (!listed.IsTruncated) break;
    markers = { KeyMarker: listed.NextKeyMarker, VersionIdMarker: listed.NextVersionIdMarker };
  }
  assert.deepEqual([...seen].sort(), [...written].sort());
  assert.equal(seen[0], written[2]);
  const grouped = await client.send(new ListObjectVersionsCommand({ Bucket, Delimiter: "/" }));
  assert.deepEqual(grouped.CommonPrefixes, [{ Prefix: "dir/" }]);
  assert.equal(grouped.Versions!.length, 6);
  assert.equal(grouped.DeleteMarkers!.length, 1);

  const deleted = await client.send(
    new DeleteObjectsCommand({
      Bucket,
      Delete: { Objects: written.map((one) => ({ Key: one.split(" ")[0]!, VersionId: one.split(" ")[1]! })) },
    }),
  );
  assert.deepEqual([deleted.Deleted!.length, deleted.Errors], [12, undefined]);
  assert.deepEqual(await usage(store), { bytes: 0, objects: 0 });
});

test("a write that names the entity it replaces loses against a newer one, and against none", async (t) => {
  const store = await startTestStore(t);
  const { client } = await store.bucket(Bucket);
  await setVersioning(client, "Enabled");
  const { ETag } = await client.send(new PutObjectCommand({ Bucket, Key: "a", Body: "1" }));
  await put(client, "a", "2");
  const late = client.send(new PutObjectCommand({ Bucket, Key: "a", Body: "3", IfMatch: ETag }));
  await assert.rejects(late, { name: "PreconditionFailed" });
  await client.send(new DeleteObjectCommand({ Bucket, Key: "a" }));
  await client.send(new PutObjectCommand({ Bucket, Key: "a", Body: "4", IfNoneMatch: "*" }));
  assert.equal(await read(client, "a"), "4");
});
