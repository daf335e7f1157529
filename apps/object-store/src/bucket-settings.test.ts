import assert from "node:assert/strict";
import { test } from "node:test";
import {
  CopyObjectCommand,
  DeleteBucketCorsCommand,
  DeleteObjectTaggingCommand,
  GetBucketAclCommand,
  GetBucketCorsCommand,
  GetBucketLifecycleConfigurationCommand,
  GetBucketPolicyCommand,
  GetBucketTaggingCommand,
  GetObjectAttributesCommand,
  GetObjectCommand,
  GetObjectTaggingCommand,
  ListObjectVersionsCommand,
  ListObjectsV2Command,
  PutBucketCorsCommand,
  PutBucketLifecycleConfigurationCommand,
  PutBucketTaggingCommand,
  PutBucketVersioningCommand,
  PutObjectCommand,
  PutObjectTaggingCommand,
  CreateMultipartUploadCommand,
  ListMultipartUploadsCommand,
} from "@aws-sdk/client-s3";
import { createPool, query } from "@platform/postgres";
import { startTestStore } from "./testing-store.ts";

const Bucket = "one";

test("objects carry tags that come with the upload, by themselves, or from a copy's source", async (t) => {
  const store = await startTestStore(t);
  const { client } = await store.bucket(Bucket);
  await client.send(new PutObjectCommand({ Bucket, Key: "a", Body: "x", Tagging: "kind=scan&year=2026" }));
  const tagsOf = async (Key: string) =>
    (await client.send(new GetObjectTaggingCommand({ Bucket, Key }))).TagSet!.map(
      ({ Key, Value }) => `${Key}=${Value}`,
    );
  assert.deepEqual(await tagsOf("a"), ["kind=scan", "year=2026"]);
  assert.equal((await client.send(new GetObjectCommand({ Bucket, Key: "a" }))).TagCount, 2);
  await client.send(new CopyObjectCommand({ Bucket, Key: "b", CopySource: `${Bucket}/a` }));
  assert.deepEqual(await tagsOf("b"), ["kind=scan", "year=2026"]);
  await client.send(
    new CopyObjectCommand({
      Bucket,
      Key: "c",
      CopySource: `${Bucket}/a`,
      TaggingDirective: "REPLACE",
      Tagging: "n=1",
    }),
  );
  assert.deepEqual(await tagsOf("c"), ["n=1"]);
  const Tagging = { TagSet: [{ Key: "ä b", Value: "ü+/=@" }] };
  await client.send(new PutObjectTaggingCommand({ Bucket, Key: "a", Tagging }));
  assert.deepEqual(await tagsOf("a"), ["ä b=ü+/=@"]);
  await client.send(new DeleteObjectTaggingCommand({ Bucket, Key: "a" }));
  assert.deepEqual(await tagsOf("a"), []);
  const many = { TagSet: Array.from({ length: 11 }, (_, at) => ({ Key: `k${at}`, Value: "" })) };
  await assert.rejects(client.send(new PutObjectTaggingCommand({ Bucket, Key: "a", Tagging: many })), {
    name: "BadRequest",
  });
  const twice = { TagSet: [1, 2].map(() => ({ Key: "k", Value: "" })) };
  await assert.rejects(client.send(new PutObjectTaggingCommand({ Bucket, Key: "a", Tagging: twice })), {
    name: "InvalidTag",
  });
});

test("a bucket's own settings read back, and what it does not have says so by its name", async (t) => {
  const store = await startTestStore(t);
  const { client } = await store.bucket(Bucket);
  await assert.rejects(client.send(new GetBucketTaggingCommand({ Bucket })), { name: "NoSuchTagSet" });
  const Tagging = { TagSet: [{ Key: "team", Value: "front" }] };
  await client.send(new PutBucketTaggingCommand({ Bucket, Tagging }));
  assert.deepEqual((await client.send(new GetBucketTaggingCommand({ Bucket }))).TagSet, Tagging.TagSet);
  await assert.rejects(client.send(new GetBucketPolicyCommand({ Bucket })), { name: "NoSuchBucketPolicy" });
  const acl = await client.send(new GetBucketAclCommand({ Bucket }));
  assert.equal(acl.Grants![0]!.Permission, "FULL_CONTROL");
  await client.send(new PutObjectCommand({ Bucket, Key: "a", Body: "hello", ChecksumAlgorithm: "SHA256" }));
  const attributes = await client.send(
    new GetObjectAttributesCommand({
      Bucket,
      Key: "a",
      ObjectAttributes: ["ETag", "Checksum", "ObjectSize", "StorageClass"],
    }),
  );
  assert.equal(attributes.ObjectSize, 5);
  assert.equal(attributes.Checksum!.ChecksumSHA256, "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=");
});

test("a page of another origin may do what the bucket's rules allow, and nothing else", async (t) => {
  const store = await startTestStore(t);
  const { client } = await store.bucket(Bucket, { public: true });
  await client.send(new PutObjectCommand({ Bucket, Key: "a", Body: "x" }));
  const preflight = (origin: string, method: string, headers = "") =>
    fetch(`${store.url}/${Bucket}/a`, {
      method: "OPTIONS",
      headers: {
        origin,
        "access-control-request-method": method,
        ...(headers === "" ? {} : { "access-control-request-headers": headers }),
      },
    });
  assert.equal((await preflight("https://app.example", "PUT")).status, 403);
  await assert.rejects(client.send(new GetBucketCorsCommand({ Bucket })), {
    name: "NoSuchCORSConfiguration",
  });
  const CORSRules = [
    {
      AllowedOrigins: ["https://*.example"],
      AllowedMethods: ["GET", "PUT"],
      AllowedHeaders: ["content-type", "x-amz-*"],
      ExposeHeaders: ["ETag"],
      MaxAgeSeconds: 600,
    },
  ];
  await client.send(new PutBucketCorsCommand({ Bucket, CORSConfiguration: { CORSRules } }));
  assert.deepEqual((await client.send(new GetBucketCorsCommand({ Bucket }))).CORSRules, CORSRules);
  const allowed = await preflight("https://app.example", "PUT", "Content-Type, x-amz-date");
  assert.equal(allowed.status, 200);
  assert.equal(allowed.headers.get("access-control-allow-origin"), "https://app.example");
  assert.equal(allowed.headers.get("access-control-max-age"), "600");
  assert.equal((await preflight("https://app.example", "PUT", "authorization")).status, 403);
  assert.equal((await preflight("https://app.example", "DELETE")).status, 403);
  assert.equal((await preflight("https://app.example.evil", "GET")).status, 403);
  const got = await fetch(`${store.url}/${Bucket}/a`, { headers: { origin: "https://app.example" } });
  assert.equal(got.headers.get("access-control-allow-origin"), "https://app.example");
  assert.equal(got.headers.get("access-control-expose-headers"), "ETag");
  assert.match(got.headers.get("vary")!, /Origin/);
  const other = await fetch(`${store.url}/${Bucket}/a`, { headers: { origin: "https://evil.test" } });
  assert.equal(other.headers.get("access-control-allow-origin"), null);
  await client.send(new DeleteBucketCorsCommand({ Bucket }));
  assert.equal((await preflight("https://app.example", "GET")).status, 403);
});

test("what a lifecycle rule has ended is gone, and the rest stays", async (t) => {
  const store = await startTestStore(t);
  const { client } = await store.bucket(Bucket);
  await assert.rejects(client.send(new GetBucketLifecycleConfigurationCommand({ Bucket })), {
    name: "NoSuchLifecycleConfiguration",
  });
  const rule = (Rules: object[]) =>
    client.send(
      new PutBucketLifecycleConfigurationCommand({
        Bucket,
        LifecycleConfiguration: { Rules: Rules as never },
      }),
    );
  await assert.rejects(
    rule([{ Status: "Enabled", Filter: {}, Transitions: [{ Days: 1, StorageClass: "GLACIER" }] }]),
    { name: "NotImplemented" },
  );
  await assert.rejects(rule([{ Status: "Enabled", Filter: { Prefix: "x" } }]), { name: "MalformedXML" });
  await rule([
    { ID: "logs", Status: "Enabled", Filter: { Prefix: "logs/" }, Expiration: { Days: 3 } },
    {
      ID: "tagged",
      Status: "Enabled",
      Filter: { And: { Prefix: "", Tags: [{ Key: "keep", Value: "no" }] } },
      Expiration: { Days: 3 },
    },
    { ID: "off", Status: "Disabled", Filter: { Prefix: "" }, Expiration: { Days: 1 } },
    {
      ID: "parts",
      Status: "Enabled",
      Filter: { Prefix: "" },
      AbortIncompleteMultipartUpload: { DaysAfterInitiation: 2 },
    },
    {
      ID: "old",
      Status: "Enabled",
      Filter: { Prefix: "v/" },
      NoncurrentVersionExpiration: { NoncurrentDays: 3, NewerNoncurrentVersions: 1 },
    },
  ]);
  const stored = await client.send(new GetBucketLifecycleConfigurationCommand({ Bucket }));
  assert.deepEqual(
    stored.Rules!.map(({ ID }) => ID),
    ["logs", "tagged", "off", "parts", "old"],
  );
  await client.send(new CreateMultipartUploadCommand({ Bucket, Key: "half" }));
  for (const Key of ["logs/old", "logs/new", "other", "tagged"])
    await client.send(
      new PutObjectCommand({ Bucket, Key, Body: "x", ...(Key === "tagged" ? { Tagging: "keep=no" } : {}) }),
    );
  const pool = createPool(store.databaseUrl);
  t.after(() => pool.end());
  const age = (what: string, days: number) =>
    query(
      pool,
      `update object_store.objects set modified_at = now() - make_interval(days => $2) where key like $1`,
      [what, days],
    );
  for (const key of ["logs/old", "other", "tagged"]) await age(key, 4);
  await query(pool, "update object_store.uploads set created_at = now() - interval '3 days'");
  assert.equal(await store.tidy(), 3);
  const left = await client.send(new ListObjectsV2Command({ Bucket }));
  assert.deepEqual(
    left.Contents!.map(({ Key }) => Key),
    ["logs/new", "other"],
  );
  assert.equal((await client.send(new ListMultipartUploadsCommand({ Bucket }))).Uploads, undefined);

  const VersioningConfiguration = { Status: "Enabled" } as const;
  await client.send(new PutBucketVersioningCommand({ Bucket, VersioningConfiguration }));
  for (const Body of ["1", "2", "3", "4"])
    await client.send(new PutObjectCommand({ Bucket, Key: "v/a", Body }));
  assert.equal(await store.tidy(), 0);
  await age("v/%", 5);
  assert.equal(await store.tidy(), 2);
  const { Versions } = await client.send(new ListObjectVersionsCommand({ Bucket, Prefix: "v/" }));
  assert.equal(Versions!.length, 2);
});
