import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readdir } from "node:fs/promises";
import { createServer, connect, type AddressInfo, type Socket } from "node:net";
import { once } from "node:events";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import {
  CopyObjectCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { startTestStore, upstreamSettings } from "./testing-store.ts";
import { UpstreamBlobs } from "./upstream-blobs.ts";

/** A way to the upstream that can be cut. */
async function startWay(t: TestContext, url: string) {
  const open = new Set<Socket>();
  let isCut = false;
  let isIll = false;
  /** Bytes of an answer after which it breaks off. */
  let breakAfter = Infinity;
  const server = createServer((inner) => {
    open.add(inner);
    inner.on("error", () => undefined);
    if (isCut) return inner.destroy();
    if (isIll)
      return inner.end(
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
      );
    const outer = connect(Number(new URL(url).port), "127.0.0.1");
    open.add(outer);
    outer.on("error", () => inner.destroy());
    let passed = 0;
    outer.on("data", (part: Buffer) => {
      passed += part.length;
      if (passed > breakAfter) inner.destroy();
      else inner.write(part);
    });
    outer.on("close", () => inner.destroy());
    inner.on("close", () => outer.destroy());
    inner.pipe(outer);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const drop = () => {
    for (const socket of open) socket.destroy();
    open.clear();
  };
  t.after(() => {
    drop();
    server.close();
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cut: (value: boolean) => {
      isCut = value;
      drop();
    },
    answer500: (value: boolean) => {
      isIll = value;
      drop();
    },
    breakAnswersAfter: (bytes: number) => {
      breakAfter = bytes;
      drop();
    },
  };
}

async function start(t: TestContext) {
  const upstream = await startTestStore(t, {});
  const kept = await upstream.bucket("kept-here");
  const way = await startWay(t, upstream.url);
  const settings = upstreamSettings(kept, way.url);
  const store = await startTestStore(t, settings);
  const names = async () => {
    const { Contents = [] } = await kept.client.send(new ListObjectsV2Command({ Bucket: kept.name }));
    return Contents.map(({ Key }) => Key!);
  };
  return { upstream, kept, way, settings, store, names, ...(await store.bucket("clinic")) };
}

const put = (client: S3Client, Bucket: string, Key: string, Body: Buffer | string) =>
  client.send(new PutObjectCommand({ Bucket, Key, Body }));
const get = async (client: S3Client, Bucket: string, Key: string, Range?: string) => {
  const { Body } = await client.send(new GetObjectCommand({ Bucket, Key, Range }));
  return Buffer.from(await Body!.transformToByteArray());
};
const failsWith = (name: string, status: number) => (error: unknown) => {
  const { name: seen, $metadata } = error as { name: string; $metadata?: { httpStatusCode?: number } };
  assert.deepEqual([seen, $metadata?.httpStatusCode], [name, status]);
  return true;
};

test("content lies in the upstream bucket, under names that tell nothing; nothing of it on this disk", async (t) => {
  const { client, name, names, store } = await start(t);
  const large = randomBytes(20 * 1024 * 1024);
  await put(client, name, "patients/ann.txt", "hello");
  await new Upload({
    client,
    params: { Bucket: name, Key: "scan", Body: large },
    partSize: 6 * 1024 * 1024,
  }).done();
  await client.send(new CopyObjectCommand({ Bucket: name, Key: "copy", CopySource: `${name}/scan` }));
  assert.deepEqual(await get(client, name, "scan"), large);
  assert.deepEqual(
    await get(client, name, "copy", "bytes=7000000-7000099"),
    large.subarray(7_000_000, 7_000_100),
  );
  assert.equal((await get(client, name, "patients/ann.txt")).toString(), "hello");
  for (const key of await names()) assert.match(key, /^kept\/[0-9a-f]{2}\/[0-9a-f]{32}$/);
  assert.deepEqual(await readdir(join(store.dataDir)), []);
  for (const Key of ["patients/ann.txt", "scan", "copy"])
    await client.send(new DeleteObjectCommand({ Bucket: name, Key }));
  assert.deepEqual(await names(), []);
});

test("without the upstream a write is refused and keeps nothing, a read says so; afterwards all is as before", async (t) => {
  const { client, name, names, way } = await start(t);
  await put(client, name, "kept", "before");
  way.cut(true);
  await assert.rejects(put(client, name, "kept", "lost"), failsWith("ServiceUnavailable", 503));
  await assert.rejects(get(client, name, "kept"), (error: Error) => !error.message.includes("kept-here"));
  way.cut(false);
  way.answer500(true);
  await assert.rejects(put(client, name, "kept", "lost"), failsWith("ServiceUnavailable", 503));
  way.answer500(false);
  assert.equal((await get(client, name, "kept")).toString(), "before");
  assert.equal((await names()).length, 1);
});

test("an answer of the upstream that breaks off is never taken for a whole object", async (t) => {
  const { client, name, way } = await start(t);
  await put(client, name, "large", randomBytes(5 * 1024 * 1024));
  way.breakAnswersAfter(1024 * 1024);
  await assert.rejects(get(client, name, "large"));
  way.breakAnswersAfter(Infinity);
  assert.equal((await get(client, name, "large")).length, 5 * 1024 * 1024);
});

test("what a crash left upstream is swept once it is old, and nothing else", async (t) => {
  const { settings, upstream, kept, names } = await start(t);
  const blobs = await UpstreamBlobs.open({
    ...{ endpoint: upstream.url, region: "us-east-1", bucket: kept.name, prefix: "kept/", pathStyle: true },
    accessKeyId: settings["OBJECT_STORE_UPSTREAM_ACCESS_KEY_ID"]!,
    secretAccessKey: settings["OBJECT_STORE_UPSTREAM_SECRET_ACCESS_KEY"]!,
  });
  t.after(() => blobs.close());
  const stream = async function* () {
    yield Buffer.from("content");
  };
  const [known, orphan] = [
    await blobs.write(stream(), () => undefined),
    await blobs.write(stream(), () => undefined),
  ];
  await put(kept.client, kept.name, "kept/somebody-elses", "x");
  const refused = () => {
    throw new Error("too large");
  };
  await assert.rejects(blobs.write(stream(), refused), /too large/);
  const findKnown = async () => new Set([known.blob]);
  assert.equal(await blobs.sweep(Date.now() - 3_600_000, findKnown), 0);
  assert.equal(await blobs.sweep(Date.now() + 60_000, findKnown), 1);
  assert.deepEqual([await blobs.exists(known), await blobs.exists(orphan)], [true, false]);
  assert.equal((await names()).length, 2);
});

test("a wrong key, bucket or address stops the start with one line that does not hold the secret", async (t) => {
  const { settings } = await start(t);
  const mistakes: Record<string, string>[] = [
    { OBJECT_STORE_UPSTREAM_SECRET_ACCESS_KEY: "wrong-secret-of-forty-characters-000000" },
    { OBJECT_STORE_UPSTREAM_BUCKET: "none-such" },
    { OBJECT_STORE_UPSTREAM_ENDPOINT: "http://127.0.0.1:9" },
    { OBJECT_STORE_UPSTREAM_BUCKET: "" },
  ];
  for (const wrong of mistakes)
    await assert.rejects(startTestStore(t, { ...settings, ...wrong }), /ended before it listened/);
  const blobs = UpstreamBlobs.open({
    ...{ endpoint: "http://127.0.0.1:9", region: "r", bucket: "b", prefix: "", pathStyle: true },
    ...{ accessKeyId: "id", secretAccessKey: "the-secret" },
  });
  await assert.rejects(blobs, (error: Error) => {
    assert.match(error.message, /OBJECT_STORE_UPSTREAM/);
    return !error.message.includes("the-secret");
  });
});
