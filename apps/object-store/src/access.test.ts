import assert from "node:assert/strict";
import { createHash, createHmac, randomBytes } from "node:crypto";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { get, type IncomingMessage } from "node:http";
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import {
  CopyObjectCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  PutBucketCorsCommand,
  PutObjectCommand,
} from "@aws-sdk/client-s3";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
import { waitFor } from "@platform/daemon";
import { createPool, query } from "@platform/postgres";
import { startTestStore, type TestBucket, type TestStore } from "./testing-store.ts";

const codeOf = async (response: Response) => [
  response.status,
  /<Code>(\w+)<\/Code>/.exec(await response.text())?.[1],
];

test("a presigned URL allows its one call on its one key until it expires", async (t) => {
  const store = await startTestStore(t);
  const { client, name: Bucket } = await store.bucket("one");
  const Key = "dir/ü b+c.txt";
  const put = await getSignedUrl(client, new PutObjectCommand({ Bucket, Key, ContentType: "text/plain" }), {
    expiresIn: 60,
    signableHeaders: new Set(["content-type"]),
  });
  const uploaded = await fetch(put, {
    method: "PUT",
    body: "hello",
    headers: { "content-type": "text/plain" },
  });
  assert.equal(uploaded.status, 200, await uploaded.text());
  const other = await fetch(put, { method: "PUT", body: "hello", headers: { "content-type": "text/html" } });
  assert.deepEqual(await codeOf(other), [403, "SignatureDoesNotMatch"]);
  const disposition = { ResponseContentDisposition: 'attachment; filename="x"' };
  const download = await getSignedUrl(client, new GetObjectCommand({ Bucket, Key, ...disposition }), {
    expiresIn: 60,
  });
  const got = await fetch(download, { headers: { range: "bytes=1-2" } });
  assert.deepEqual([got.status, await got.text()], [206, "el"]);
  assert.equal(got.headers.get("content-disposition"), 'attachment; filename="x"');

  const refused = [403, "SignatureDoesNotMatch"];
  assert.deepEqual(await codeOf(await fetch(download, { method: "DELETE" })), refused);
  assert.deepEqual(await codeOf(await fetch(download.replace("dir/", "dirs/"))), refused);
  assert.deepEqual(
    await codeOf(await fetch(download.replace("X-Amz-Expires=60", "X-Amz-Expires=600"))),
    refused,
  );
  assert.deepEqual(await codeOf(await fetch(`${download}&response-cache-control=x`)), refused);
  const unsignedHeader = await fetch(put, {
    method: "PUT",
    body: "x",
    headers: { "content-type": "text/plain", "x-amz-meta-a": "b" },
  });
  assert.deepEqual(await codeOf(unsignedHeader), [403, "AccessDenied"]);

  const past = new Date(Date.now() - 120_000);
  const command = new GetObjectCommand({ Bucket, Key });
  const expired = await getSignedUrl(client, command, { expiresIn: 60, signingDate: past });
  assert.deepEqual(await codeOf(await fetch(expired)), [403, "RequestExpired"]);
  const future = await getSignedUrl(client, command, { signingDate: new Date(Date.now() + 1_200_000) });
  assert.deepEqual(await codeOf(await fetch(future)), [403, "RequestTimeTooSkewed"]);
  const long = download.replace("X-Amz-Expires=60", "X-Amz-Expires=604801");
  assert.deepEqual(await codeOf(await fetch(long)), [400, "AuthorizationQueryParametersError"]);
});

test("the control plane is given URLs that clients use without a key", async (t) => {
  const store = await startTestStore(t);
  await store.bucket("one");
  const ask = async (method: string, input: object) => {
    const body = { method, key: "dir/ü (1)+.txt", origin: store.url, expiresSeconds: 60, ...input };
    const response = await store.admin("POST", "id-one/presign", body);
    assert.equal(response.status, 200);
    return ((await response.json()) as { url: string }).url;
  };
  const put = await ask("PUT", { contentType: "text/plain" });
  const headers = { "content-type": "text/plain" };
  assert.equal((await fetch(put, { method: "PUT", body: "hello", headers })).status, 200);
  assert.equal((await fetch(put, { method: "PUT", body: "hello" })).status, 403);
  const download = await fetch(await ask("GET", {}));
  assert.deepEqual([await download.text(), download.headers.get("content-type")], ["hello", "text/plain"]);
  assert.match(
    await ask("GET", { origin: "https://one.s3.example.org" }),
    /^https:\/\/one\.s3\.example\.org\/dir\//,
  );
});

test("a key opens its own bucket only, and a reading key writes nothing", async (t) => {
  const store = await startTestStore(t);
  const one = await store.bucket("one");
  const two = await store.bucket("two");
  const reader = await store.bucket("one", { access: "read" });
  await one.client.send(new PutObjectCommand({ Bucket: "one", Key: "a", Body: "x" }));
  const denied = { name: "AccessDenied" };
  await assert.rejects(two.client.send(new GetObjectCommand({ Bucket: "one", Key: "a" })), denied);
  await assert.rejects(two.client.send(new PutObjectCommand({ Bucket: "one", Key: "a", Body: "y" })), denied);
  await assert.rejects(two.client.send(new ListObjectsV2Command({ Bucket: "one" })), denied);
  await reader.client.send(new GetObjectCommand({ Bucket: "one", Key: "a" }));
  await assert.rejects(
    reader.client.send(new PutObjectCommand({ Bucket: "one", Key: "a", Body: "y" })),
    denied,
  );
  const { accessKeyId } = one;
  const wrong = one.clientWith({ credentials: { accessKeyId, secretAccessKey: two.secretAccessKey } });
  await assert.rejects(wrong.send(new GetObjectCommand({ Bucket: "one", Key: "a" })), {
    name: "SignatureDoesNotMatch",
  });
  const late = one.clientWith({ systemClockOffset: -1_000_000 });
  await assert.rejects(late.send(new GetObjectCommand({ Bucket: "one", Key: "a" })), {
    name: "RequestTimeTooSkewed",
  });
  assert.equal((await store.admin("DELETE", `id-one/credentials/${accessKeyId}`)).status, 204);
  await assert.rejects(one.client.send(new GetObjectCommand({ Bucket: "one", Key: "a" })), {
    name: "InvalidAccessKeyId",
  });
});

test("a key that is held to a prefix or to some actions does no more than that", async (t) => {
  const store = await startTestStore(t);
  const Bucket = "one";
  const { client } = await store.bucket(Bucket);
  for (const Key of ["mine/a", "theirs/a"])
    await client.send(new PutObjectCommand({ Bucket, Key, Body: "x" }));
  const held = (await store.bucket(Bucket, { prefix: "mine/" })).client;
  const denied = { name: "AccessDenied" };
  await held.send(new PutObjectCommand({ Bucket, Key: "mine/b", Body: "y" }));
  await held.send(new ListObjectsV2Command({ Bucket, Prefix: "mine/" }));
  await assert.rejects(held.send(new ListObjectsV2Command({ Bucket })), denied);
  await assert.rejects(held.send(new ListObjectVersionsCommand({ Bucket, Prefix: "min" })), denied);
  await assert.rejects(held.send(new ListMultipartUploadsCommand({ Bucket })), denied);
  await assert.rejects(held.send(new GetObjectCommand({ Bucket, Key: "theirs/a" })), denied);
  await assert.rejects(held.send(new GetObjectCommand({ Bucket, Key: "mine/../theirs/a" })), {
    name: "NoSuchKey",
  });
  const copy = { Bucket, Key: "mine/c", CopySource: `${Bucket}/theirs/a` };
  await assert.rejects(held.send(new CopyObjectCommand(copy)), denied);
  const several = { Objects: [{ Key: "mine/b" }, { Key: "theirs/a" }] };
  const deleted = await held.send(new DeleteObjectsCommand({ Bucket, Delete: several }));
  assert.deepEqual(
    [deleted.Deleted!.map(({ Key }) => Key), deleted.Errors!.map(({ Key, Code }) => [Key, Code])],
    [["mine/b"], [["theirs/a", "AccessDenied"]]],
  );
  const cors = { CORSRules: [{ AllowedOrigins: ["*"], AllowedMethods: ["GET"] }] };
  await assert.rejects(held.send(new PutBucketCorsCommand({ Bucket, CORSConfiguration: cors })), denied);

  const dropBox = (await store.bucket(Bucket, { actions: ["put"] })).client;
  await dropBox.send(new PutObjectCommand({ Bucket, Key: "drop", Body: "y" }));
  await assert.rejects(dropBox.send(new GetObjectCommand({ Bucket, Key: "drop" })), denied);
  await assert.rejects(dropBox.send(new ListObjectsV2Command({ Bucket })), denied);
  await assert.rejects(dropBox.send(new DeleteObjectCommand({ Bucket, Key: "drop" })), denied);
});

test("a public bucket gives its objects to all, and neither its list nor a write", async (t) => {
  const store = await startTestStore(t);
  const { client } = await store.bucket("one", { public: true });
  await client.send(new PutObjectCommand({ Bucket: "one", Key: "a", Body: "x" }));
  assert.equal(await (await fetch(`${store.url}/one/a`)).text(), "x");
  assert.equal((await fetch(`${store.url}/one`)).status, 403);
  assert.equal((await fetch(`${store.url}/one/a`, { method: "PUT", body: "y" })).status, 403);
});

test("a bucket is also addressed by host name", async (t) => {
  const store = await startTestStore(t);
  const { client, clientWith } = await store.bucket("one");
  await client.send(new PutObjectCommand({ Bucket: "one", Key: "internal/a", Body: "x" }));
  const { port } = new URL(store.url);
  const virtual = clientWith({ endpoint: `http://s3.localhost:${port}`, forcePathStyle: false });
  const command = new GetObjectCommand({ Bucket: "one", Key: "internal/a" });
  const url = new URL(await getSignedUrl(virtual, command));
  assert.equal(url.hostname, "one.s3.localhost");
  // The name does not resolve everywhere, so the connection is made by address.
  const sent = get({ host: "127.0.0.1", port, path: url.pathname + url.search, headers: { host: url.host } });
  const [response] = (await once(sent, "response")) as [IncomingMessage];
  assert.equal(response.statusCode, 200);
  assert.equal(await text(response), "x");
});

test("secrets are not readable in the database", async (t) => {
  const store = await startTestStore(t);
  const { secretAccessKey } = await store.bucket("one");
  const pool = createPool(store.databaseUrl);
  t.after(() => pool.end());
  const [row] = await query<{ secret: Buffer }>(
    pool,
    "select encrypted_secret as secret from object_store.credentials",
  );
  assert.equal(row!.secret.includes(secretAccessKey), false);
});

/** A PUT signed by hand, so that body and claims can disagree. */
function signedPut(
  store: TestStore,
  bucket: TestBucket,
  headers: Record<string, string>,
  payload: string,
): Headers {
  const time = new Date().toISOString().replace(/[-:]|\.\d+/g, "");
  const scope = `${time.slice(0, 8)}/us-east-1/s3/aws4_request`;
  const all: Record<string, string> = {
    ...headers,
    host: new URL(store.url).host,
    "x-amz-date": time,
    "x-amz-content-sha256": payload,
  };
  const names = Object.keys(all).sort();
  const lines = names.map((name) => `${name}:${all[name]}\n`).join("");
  const canonical = ["PUT", "/one/a", "", lines, names.join(";"), payload].join("\n");
  const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
  const mac = (key: string | Buffer, text: string) => createHmac("sha256", key).update(text).digest();
  const key = scope.split("/").reduce<string | Buffer>(mac, `AWS4${bucket.secretAccessKey}`);
  const signature = mac(key, `AWS4-HMAC-SHA256\n${time}\n${scope}\n${sha256(canonical)}`).toString("hex");
  const credential = `Credential=${bucket.accessKeyId}/${scope}`;
  all["authorization"] =
    `AWS4-HMAC-SHA256 ${credential}, SignedHeaders=${names.join(";")}, Signature=${signature}`;
  delete all["host"];
  const result = new Headers(all);
  result.set("seed", signature);
  return result;
}

test("content that differs from any digest announced for it is refused and not kept", async (t) => {
  const store = await startTestStore(t);
  const bucket = await store.bucket("one");
  const sha256 = createHash("sha256").update("hello").digest("hex");
  const put = async (headers: Record<string, string>, payload: string, body: string) => {
    const signed = signedPut(store, bucket, headers, payload);
    signed.delete("seed");
    return codeOf(await fetch(`${store.url}/one/a`, { method: "PUT", headers: signed, body }));
  };
  assert.deepEqual(await put({}, sha256, "hellO"), [400, "XAmzContentSHA256Mismatch"]);
  const md5 = createHash("md5").update("hello").digest("base64");
  assert.deepEqual(await put({ "content-md5": md5 }, "UNSIGNED-PAYLOAD", "hellO"), [400, "BadDigest"]);
  assert.deepEqual(await put({ "content-md5": "x" }, "UNSIGNED-PAYLOAD", "hello"), [400, "InvalidDigest"]);
  for (const name of ["crc32", "crc32c", "sha1", "sha256", "crc64nvme"])
    assert.deepEqual(await put({ [`x-amz-checksum-${name}`]: "AAAA" }, "UNSIGNED-PAYLOAD", "hello"), [
      400,
      "BadDigest",
    ]);
  const trailing = { "x-amz-decoded-content-length": "5", "x-amz-trailer": "x-amz-checksum-crc32" };
  const unsigned = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
  const body = (crc: string) => `5\r\nhello\r\n0\r\nx-amz-checksum-crc32:${crc}\r\n\r\n`;
  assert.deepEqual(await put(trailing, unsigned, body("AAAAAA==")), [400, "BadDigest"]);
  assert.deepEqual(await put(trailing, unsigned, "5\r\nhello\r\n0\r\n\r\n"), [400, "InvalidRequest"]);
  assert.deepEqual(await put(trailing, unsigned, "6\r\nhello!\r\n0\r\n\r\n"), [400, "InvalidRequest"]);
  assert.deepEqual(await put(trailing, unsigned, "5\r\nhel"), [400, "IncompleteBody"]);
  assert.deepEqual(await put(trailing, unsigned, body("NhCmhg==")), [200, undefined]);
  assert.deepEqual(await (await store.admin("GET", "id-one/usage")).json(), { bytes: 5, objects: 1 });
});

test("a signed stream is refused if any chunk or its order was changed", async (t) => {
  const store = await startTestStore(t);
  const bucket = await store.bucket("one");
  const payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
  const send = async (change: (text: string) => string) => {
    const headers = signedPut(store, bucket, { "x-amz-decoded-content-length": "10" }, payload);
    const time = headers.get("x-amz-date")!;
    const scope = `${time.slice(0, 8)}/us-east-1/s3/aws4_request`;
    const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
    const mac = (key: string | Buffer, text: string) => createHmac("sha256", key).update(text).digest();
    const key = scope.split("/").reduce<string | Buffer>(mac, `AWS4${bucket.secretAccessKey}`);
    let previous = headers.get("seed")!;
    headers.delete("seed");
    const chunk = (text: string) => {
      const signed = ["AWS4-HMAC-SHA256-PAYLOAD", time, scope, previous, sha256(""), sha256(text)].join("\n");
      previous = mac(key, signed).toString("hex");
      return `${text.length.toString(16)};chunk-signature=${previous}\r\n${text}\r\n`;
    };
    const body = change([chunk("hello"), chunk("world"), chunk("")].join(""));
    return codeOf(await fetch(`${store.url}/one/a`, { method: "PUT", headers, body }));
  };
  assert.deepEqual(await send((text) => text.replace("world", "w0rld")), [403, "SignatureDoesNotMatch"]);
  const swap = (text: string) => text.replace(/^(.*\r\nhello\r\n)(.*\r\nworld\r\n)/, "$2$1");
  assert.deepEqual(await send(swap), [403, "SignatureDoesNotMatch"]);
  assert.deepEqual(await send((text) => text.replace(/chunk-signature=\w+/g, "x=1")), [
    400,
    "InvalidRequest",
  ]);
  assert.deepEqual(await send((text) => text), [200, undefined]);
});

test("an upload that the client or the server does not finish is not visible", async (t) => {
  const store = await startTestStore(t);
  const bucket = await store.bucket("one");
  const headers = signedPut(store, bucket, {}, "UNSIGNED-PAYLOAD");
  headers.delete("seed");
  const start = async () => {
    const socket = connect(Number(new URL(store.url).port), "127.0.0.1");
    t.after(() => socket.destroy());
    await once(socket, "connect");
    const lines = [...headers].map(([name, value]) => `${name}: ${value}\r\n`).join("");
    socket.on("error", () => {
      // The server is killed on purpose.
    });
    socket.write(
      `PUT /one/a HTTP/1.1\r\nhost: ${new URL(store.url).host}\r\ncontent-length: 9999999\r\n${lines}\r\n`,
    );
    socket.write(randomBytes(2_000_000));
    return socket;
  };

  const temporary = () => readdir(`${store.dataDir}/tmp`);
  const socket = await start();
  await waitFor("the upload to begin", async () => (await temporary()).length === 1, 10_000);
  socket.destroy();
  await waitFor("the server to clean up", async () => (await temporary()).length === 0, 10_000);
  await start();
  await waitFor("the upload to begin", async () => (await temporary()).length === 1, 10_000);
  await store.kill();
  await store.restart();
  const client = bucket.clientWith({ endpoint: store.url });
  assert.equal((await client.send(new ListObjectsV2Command({ Bucket: "one" }))).KeyCount, 0);
  assert.deepEqual(await (await store.admin("GET", "id-one/usage")).json(), { bytes: 0, objects: 0 });
});
