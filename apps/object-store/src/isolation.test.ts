import assert from "node:assert/strict";
import { test } from "node:test";
import {
  CreateMultipartUploadCommand,
  GetObjectCommand,
  ListObjectVersionsCommand,
  ListPartsCommand,
  PutBucketVersioningCommand,
  PutObjectCommand,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import { assertAllFail, namesInTable } from "@platform/daemon/testing";
import { attempts, key } from "./attempts.ts";
import { startTestStore } from "./testing-store.ts";

test("what is tried on a neighbour's bucket is written down, forty of it or more", () => {
  const names = attempts.map(({ name }) => name);
  assert.ok(names.length >= 40);
  assert.equal(new Set(names).size, names.length);
  assert.deepEqual(namesInTable("isolation.md", "Object store"), names);
});

test("two tenants' buckets: nothing that either tries on the other succeeds", async (t) => {
  const store = await startTestStore(t);
  const both = await Promise.all(["bucket-1", "bucket-2"].map((name) => store.bucket(name)));
  const filled = await Promise.all(
    both.map(async ({ client, name: Bucket }, at) => {
      const on = { Bucket, VersioningConfiguration: { Status: "Enabled" as const } };
      await client.send(new PutBucketVersioningCommand(on));
      const names = { Bucket, Key: key };
      const { VersionId } = await client.send(new PutObjectCommand({ ...names, Body: `content-${at}` }));
      const { UploadId } = await client.send(new CreateMultipartUploadCommand(names));
      await client.send(new UploadPartCommand({ ...names, UploadId, PartNumber: 1, Body: `part-${at}` }));
      return { versionId: VersionId!, uploadId: UploadId! };
    }),
  );
  for (const [from, to] of [
    [0, 1],
    [1, 0],
  ] as const)
    await t.test(`from ${from + 1} to ${to + 1}`, async () => {
      const [own, other] = [both[from]!, both[to]!];
      const secrets = [`content-${to}`, `part-${to}`, other.secretAccessKey, "root:x:"];
      await assertAllFail(attempts, { url: store.url, own, other, ...filled[to]! }, secrets, [
        other.accessKeyId,
      ]);
      const { client, name: Bucket } = other;
      const got = await client.send(new GetObjectCommand({ Bucket, Key: key }));
      assert.equal(await got.Body!.transformToString(), `content-${to}`);
      const { Versions, DeleteMarkers } = await client.send(new ListObjectVersionsCommand({ Bucket }));
      const ownWrites = (Versions ?? []).filter(({ Key }) => Key === key);
      assert.equal(ownWrites.length + (DeleteMarkers?.length ?? 0), 1);
      const { uploadId: UploadId } = filled[to]!;
      const { Parts } = await client.send(new ListPartsCommand({ Bucket, Key: key, UploadId }));
      assert.deepEqual(
        Parts!.map(({ PartNumber, Size }) => [PartNumber, Size]),
        [[1, `part-${to}`.length]],
      );
    });
});
