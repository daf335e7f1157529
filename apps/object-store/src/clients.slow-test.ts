import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { Client as Minio, CopyConditions } from "minio";
import { startTestStore } from "./testing-store.ts";

const runFile = promisify(execFile);
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const find = (program: string) =>
  ["/usr/bin", "/usr/local/bin"].map((folder) => join(folder, program)).find(existsSync);

/** Larger than one part of every client. */
const largeBytes = 20 << 20;

interface Scene {
  url: string;
  port: number;
  accessKeyId: string;
  secretAccessKey: string;
  folder: string;
  large: Buffer;
  largeFile: string;
  smallFile: string;
  /** Runs the program with these words, in an environment that holds nothing of the machine's. */
  run(program: string, words: string[], environment?: Record<string, string>): Promise<string>;
}

async function startScene(t: TestContext): Promise<Scene> {
  const store = await startTestStore(t);
  const { accessKeyId, secretAccessKey } = await store.bucket("one");
  const folder = await mkdtemp(join(tmpdir(), "s3-clients-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const large = randomBytes(largeBytes);
  const [largeFile, smallFile] = [join(folder, "large.bin"), join(folder, "small ü.txt")];
  await writeFile(largeFile, large);
  await writeFile(smallFile, "hello");
  return {
    ...{ url: store.url, port: Number(new URL(store.url).port), accessKeyId, secretAccessKey, folder },
    ...{ large, largeFile, smallFile },
    run: async (program, words, environment = {}) => {
      const env = { PATH: "/usr/bin:/bin", HOME: folder, LANG: "C.UTF-8", ...environment };
      const { stdout } = await runFile(program, words, { env, maxBuffer: 10 << 20, timeout: 240_000 });
      return stdout;
    },
  };
}

test("the minio client stores, lists, copies, tags, signs and removes", async (t) => {
  const { port, accessKeyId, secretAccessKey, large, largeFile, folder } = await startScene(t);
  const client = new Minio({
    ...{ endPoint: "127.0.0.1", port, useSSL: false, region: "us-east-1", pathStyle: true },
    ...{ accessKey: accessKeyId, secretKey: secretAccessKey },
  });
  assert.equal(await client.bucketExists("one"), true);
  await client.putObject("one", "dir/small ü", "hello", 5, {
    "Content-Type": "text/plain",
    "X-Amz-Meta-A": "b",
  });
  await client.fPutObject("one", "large", largeFile, {});
  const stat = await client.statObject("one", "dir/small ü");
  assert.deepEqual([stat.size, stat.metaData["a"], stat.metaData["content-type"]], [5, "b", "text/plain"]);
  await client.fGetObject("one", "large", join(folder, "back"));
  assert.equal(sha256(await readFile(join(folder, "back"))), sha256(large));
  const listed: string[] = [];
  for await (const item of client.listObjectsV2("one", "", true))
    listed.push((item as { name: string }).name);
  assert.deepEqual(listed, ["dir/small ü", "large"]);
  await client.copyObject("one", "copy", "/one/large", new CopyConditions());
  await client.setObjectTagging("one", "copy", { kind: "scan" });
  assert.deepEqual(await client.getObjectTagging("one", "copy"), [{ Key: "kind", Value: "scan" }]);
  const link = await client.presignedGetObject("one", "dir/small ü", 60);
  assert.equal(await (await fetch(link)).text(), "hello");
  const upload = await client.presignedPutObject("one", "up", 60);
  assert.equal((await fetch(upload, { method: "PUT", body: "x" })).status, 200);
  await client.setBucketVersioning("one", { Status: "Enabled" });
  assert.equal(((await client.getBucketVersioning("one")) as { Status: string }).Status, "Enabled");
  await client.removeObjects("one", ["copy", "large", "up"]);
  await assert.rejects(client.statObject("one", "large"), { code: "NotFound" });
});

test("awscli copies both ways, syncs, lists, signs and deletes", async (t) => {
  const aws = find("aws");
  if (!aws) return t.skip("awscli is not installed");
  const { run, url, accessKeyId, secretAccessKey, large, largeFile, smallFile, folder } = await startScene(t);
  const environment = {
    AWS_ACCESS_KEY_ID: accessKeyId,
    AWS_SECRET_ACCESS_KEY: secretAccessKey,
    AWS_DEFAULT_REGION: "us-east-1",
    AWS_EC2_METADATA_DISABLED: "true",
  };
  const s3 = (...words: string[]) => run(aws, ["--endpoint-url", url, ...words], environment);
  await s3("s3", "cp", largeFile, "s3://one/large.bin");
  await s3("s3", "cp", "s3://one/large.bin", join(folder, "back"));
  assert.equal(sha256(await readFile(join(folder, "back"))), sha256(large));
  await mkdir(join(folder, "tree", "sub"), { recursive: true });
  for (const name of ["a", "sub/b", "sub/c d"]) await writeFile(join(folder, "tree", name), name);
  await s3("s3", "sync", join(folder, "tree"), "s3://one/tree");
  assert.match(await s3("s3", "ls", "--recursive", "s3://one/"), /large\.bin[^]*tree\/a[^]*tree\/sub\/c d/);
  assert.equal((await s3("s3", "sync", join(folder, "tree"), "s3://one/tree")).trim(), "");
  await s3("s3", "cp", "s3://one/large.bin", "s3://one/copy.bin");
  await s3("s3", "mv", smallFile, "s3://one/small");
  const link = (await s3("s3", "presign", "s3://one/small")).trim();
  assert.equal(await (await fetch(link)).text(), "hello");
  const tags = await s3("s3api", "put-object", "--bucket", "one", "--key", "t", "--tagging", "a=b");
  assert.match(tags, /ETag/);
  await s3("s3", "rm", "--recursive", "s3://one/");
  assert.equal((await s3("s3", "ls", "--recursive", "s3://one/")).trim(), "");
});

test("s3cmd copies both ways, describes, signs and deletes", async (t) => {
  const s3cmd = find("s3cmd");
  if (!s3cmd) return t.skip("s3cmd is not installed");
  const { run, port, accessKeyId, secretAccessKey, large, largeFile, smallFile, folder } =
    await startScene(t);
  const settings = join(folder, "s3cfg");
  const host = `127.0.0.1:${port}`;
  const lines = {
    ...{ access_key: accessKeyId, secret_key: secretAccessKey, use_https: "False", signature_v2: "False" },
    ...{ host_base: host, host_bucket: host, bucket_location: "us-east-1", multipart_chunk_size_mb: "5" },
  };
  const text = Object.entries(lines).map(([name, value]) => `${name} = ${value}`);
  await writeFile(settings, ["[default]", ...text, ""].join("\n"));
  const s3 = (...words: string[]) => run(s3cmd, ["-c", settings, "--no-progress", ...words]);
  await s3("put", largeFile, "s3://one/large.bin");
  await s3("put", smallFile, "s3://one/dir/small ü.txt");
  await s3("get", "s3://one/large.bin", join(folder, "back"));
  assert.equal(sha256(await readFile(join(folder, "back"))), sha256(large));
  assert.match(await s3("ls", "--recursive", "s3://one"), /dir\/small ü\.txt[^]*large\.bin/);
  assert.match(await s3("info", "s3://one/large.bin"), new RegExp(`${largeBytes}`));
  assert.match(await s3("info", "s3://one"), /Location/);
  await s3("cp", "s3://one/large.bin", "s3://one/copy.bin");
  await s3("del", "--recursive", "--force", "s3://one/");
  assert.equal((await s3("ls", "--recursive", "s3://one")).trim(), "");
});

test("rclone copies a tree both ways, compares it by its checksums, and purges it", async (t) => {
  const rclone = find("rclone");
  if (!rclone) return t.skip("rclone is not installed");
  const { run, url, accessKeyId, secretAccessKey, large, largeFile, folder } = await startScene(t);
  const environment = {
    RCLONE_CONFIG_STORE_TYPE: "s3",
    RCLONE_CONFIG_STORE_PROVIDER: "Other",
    RCLONE_CONFIG_STORE_ENDPOINT: url,
    RCLONE_CONFIG_STORE_ACCESS_KEY_ID: accessKeyId,
    RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY: secretAccessKey,
    RCLONE_CONFIG_STORE_REGION: "us-east-1",
    RCLONE_S3_UPLOAD_CUTOFF: "8M",
    RCLONE_S3_CHUNK_SIZE: "5M",
  };
  const rc = (...words: string[]) => run(rclone, words, environment);
  const tree = join(folder, "tree");
  await mkdir(join(tree, "sub"), { recursive: true });
  for (const name of ["a", "sub/b c", "sub/ü"]) await writeFile(join(tree, name), name);
  await writeFile(join(tree, "large.bin"), await readFile(largeFile));
  await rc("copy", tree, "store:one/tree");
  await rc("check", tree, "store:one/tree");
  await rc("copy", "store:one/tree", join(folder, "back"));
  assert.equal(sha256(await readFile(join(folder, "back", "large.bin"))), sha256(large));
  assert.equal(await readFile(join(folder, "back", "sub", "ü"), "utf8"), "sub/ü");
  await rc("copyto", "store:one/tree/large.bin", "store:one/copy.bin");
  await rc("delete", "store:one");
  assert.equal((await rc("lsf", "-R", "--files-only", "store:one")).trim(), "");
});

/** Acknowledged objects that a client wrote while the server was killed again and again. */
const acknowledged = Number(process.env["OBJECT_STORE_WRITES"] ?? 2_000);

test("no object whose upload was acknowledged is lost when the server is killed at any moment", async (t) => {
  const store = await startTestStore(t);
  const bucket = await store.bucket("one");
  const { PutObjectCommand, GetObjectCommand } = await import("@aws-sdk/client-s3");
  const known = new Map<string, string>();
  let writers = bucket.clientWith({ endpoint: store.url });
  let restarting = Promise.resolve();
  let number = 0;
  let onWrite = () => {};
  const write = async () => {
    while (known.size < acknowledged) {
      const Key = `k${number++}`;
      const body = randomBytes(200 + (number % 5) * 4_000);
      try {
        await writers.send(new PutObjectCommand({ Bucket: "one", Key, Body: body }));
        known.set(Key, sha256(body));
        onWrite();
      } catch {
        // Not acknowledged: it may be there or not. The server is away for a moment.
        await restarting;
      }
    }
  };
  const writing = Promise.all(Array.from({ length: 8 }, write));
  const written = (count: number) =>
    new Promise<void>((resolve) => {
      onWrite = () => {
        if (known.size >= count) resolve();
      };
    });
  let kills = 0;
  for (; kills < 20; kills++) {
    await written((acknowledged / 25) * (kills + 1));
    restarting = store.restart();
    await restarting;
    writers = bucket.clientWith({ endpoint: store.url });
  }
  await writing;
  await store.restart();
  const reader = bucket.clientWith({ endpoint: store.url });
  for (const [Key, digest] of known) {
    const got = await reader.send(new GetObjectCommand({ Bucket: "one", Key }));
    assert.equal(sha256(await got.Body!.transformToByteArray()), digest, Key);
  }
  t.diagnostic(`${known.size} acknowledged objects, ${kills} kills, all there`);
});

test("a large object passes through in constant memory", async (t) => {
  const store = await startTestStore(t);
  const { accessKeyId, secretAccessKey } = await store.bucket("one");
  const bytes = Number(process.env["OBJECT_STORE_STREAM_BYTES"] ?? 512 * 2 ** 20);
  const curl = find("curl");
  if (!curl) return t.skip("curl is not installed");
  const peakKib = async () =>
    Number(/VmHWM:\s+(\d+)/.exec(await readFile(`/proc/${store.pid()}/status`, "utf8"))![1]);
  const before = await peakKib();
  const sign = ["--aws-sigv4", "aws:amz:us-east-1:s3", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"];
  const run = (words: string[]) =>
    new Promise<void>((resolve, reject) => {
      // The secret goes through a pipe: arguments are for all to read.
      const child = spawn(curl, ["-sSf", "-K", "-", ...sign, ...words], {
        stdio: ["pipe", "ignore", "inherit"],
      });
      child.stdin.end(`user = "${accessKeyId}:${secretAccessKey}"\n`);
      child.on("error", reject);
      child.on("exit", (code) => (code === 0 ? resolve() : reject(new Error(`curl ended with ${code}`))));
    });
  const file = join(store.dataDir, "sparse");
  await runFile("truncate", ["-s", String(bytes), file]);
  await run(["-T", file, `${store.url}/one/large`]);
  await run(["-o", "/dev/null", `${store.url}/one/large`]);
  const grownMib = ((await peakKib()) - before) / 1024;
  t.diagnostic(
    `${bytes / 2 ** 20} MiB in and out; the server's peak memory grew by ${grownMib.toFixed(0)} MiB`,
  );
  assert.ok(grownMib < 192, `grew by ${grownMib} MiB`);
});
