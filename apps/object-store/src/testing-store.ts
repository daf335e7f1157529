import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { S3Client, type S3ClientConfig } from "@aws-sdk/client-s3";
import { createTestDatabase } from "@platform/postgres/testing";

export const token = "t".repeat(40);

export interface TestStore {
  url: string;
  dataDir: string;
  databaseUrl: string;
  pid(): number;
  kill(): Promise<void>;
  /** Starts again on the same data. */
  restart(): Promise<void>;
  admin(method: string, path: string, body?: unknown): Promise<Response>;
  /** Applies lifecycle rules now. @returns how much was removed */
  tidy(): Promise<number>;
  /** A bucket with a key, and a client that signs with it. */
  bucket(name: string, options?: BucketOptions): Promise<TestBucket>;
}

export interface BucketOptions {
  quotaBytes?: number;
  public?: boolean;
  access?: "read" | "write";
  actions?: string[];
  prefix?: string;
}

export interface TestBucket {
  name: string;
  client: S3Client;
  accessKeyId: string;
  secretAccessKey: string;
  clientWith(config: S3ClientConfig): S3Client;
}

async function start(
  dataDir: string,
  databaseUrl: string,
  settings: Record<string, string> = {},
): Promise<{ child: ChildProcess; url: string }> {
  const child = fork(fileURLToPath(new URL("main.ts", import.meta.url)), {
    env: {
      PATH: process.env["PATH"],
      OBJECT_STORE_PORT: "0",
      OBJECT_STORE_DATA_DIR: dataDir,
      DATABASE_URL: databaseUrl,
      OBJECT_STORE_TOKEN: token,
      OBJECT_STORE_ENCRYPTION_KEY: "ab".repeat(32),
      LOG_LEVEL: "error",
      ...settings,
    },
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const ended = once(child, "exit").then(() => {
    throw new Error("the object store ended before it listened");
  });
  const [message] = (await Promise.race([once(child, "message"), ended])) as [{ port: number }];
  ended.catch(() => {
    // After this point the test decides when it ends.
  });
  return { child, url: `http://127.0.0.1:${message.port}` };
}

/** Settings of a store that keeps its content in this bucket. */
export function upstreamSettings(bucket: TestBucket, endpoint: string): Record<string, string> {
  return {
    OBJECT_STORE_UPSTREAM_ENDPOINT: endpoint,
    OBJECT_STORE_UPSTREAM_BUCKET: bucket.name,
    OBJECT_STORE_UPSTREAM_PREFIX: "kept/",
    OBJECT_STORE_UPSTREAM_ACCESS_KEY_ID: bucket.accessKeyId,
    OBJECT_STORE_UPSTREAM_SECRET_ACCESS_KEY: bucket.secretAccessKey,
  };
}

/** Runs the real program on a fresh database and folder, both removed after the test. */
export async function startTestStore(
  t: TestContext,
  settings: Record<string, string> | null = null,
): Promise<TestStore> {
  // The suites also run on a store that keeps its content in another one.
  const isKept = settings === null && process.env["OBJECT_STORE_TEST_UPSTREAM"] === "1";
  let given = settings ?? {};
  if (isKept) {
    const upstream = await startTestStore(t, {});
    given = upstreamSettings(await upstream.bucket("upstream"), upstream.url);
  }
  const database = await createTestDatabase();
  const dataDir = await mkdtemp(join(tmpdir(), "object-store-"));
  const clients: S3Client[] = [];
  let running = await start(dataDir, database.url, given);
  const kill = async () => {
    if (running.child.exitCode !== null || running.child.signalCode !== null) return;
    const gone = once(running.child, "exit");
    running.child.kill("SIGKILL");
    await gone;
  };
  t.after(async () => {
    for (const client of clients) client.destroy();
    await kill();
    await database.drop();
    await rm(dataDir, { recursive: true, force: true });
  });
  const store: TestStore = {
    url: running.url,
    dataDir,
    databaseUrl: database.url,
    pid: () => running.child.pid!,
    kill,
    restart: async () => {
      await kill();
      running = await start(dataDir, database.url, given);
      store.url = running.url;
    },
    admin: (method, path, body) =>
      fetch(`${store.url}/internal/buckets/${path}`, {
        method,
        headers: { authorization: `Bearer ${token}` },
        body: body === undefined ? undefined : JSON.stringify(body),
      }),
    tidy: async () => {
      const headers = { authorization: `Bearer ${token}` };
      const answer = await fetch(`${store.url}/internal/lifecycle`, { method: "POST", headers });
      return ((await answer.json()) as { removed: number }).removed;
    },
    bucket: async (name, options = {}) => {
      const { access = "write", quotaBytes = null, actions = null, prefix = "" } = options;
      const made = await store.admin("PUT", `id-${name}`, {
        name,
        quotaBytes,
        public: options.public ?? false,
      });
      if (!made.ok) throw new Error(await made.text());
      const key = await store.admin("POST", `id-${name}/credentials`, { access, actions, prefix });
      const credentials = (await key.json()) as { accessKeyId: string; secretAccessKey: string };
      const clientWith = (config: S3ClientConfig) => {
        const client = new S3Client({
          endpoint: store.url,
          region: "us-east-1",
          forcePathStyle: true,
          maxAttempts: 1,
          credentials,
          ...config,
        });
        clients.push(client);
        return client;
      };
      return { name, client: clientWith({}), clientWith, ...credentials };
    },
  };
  return store;
}
