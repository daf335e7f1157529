import { randomBytes } from "node:crypto";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client } from "pg";
import { loginOptions, parsePostgresUrl } from "./connection-options.ts";
import { startEmbeddedPostgres, type EmbeddedPostgres } from "./embedded.ts";

export interface TestDatabase {
  url: string;
  drop(): Promise<void>;
}

let shared: Promise<string> | null = null;

/**
 * A fresh database on the server of TEST_POSTGRES_URL (a superuser's URL), or on one that this
 * process starts in a temporary folder and that ends with it.
 */
export async function createTestDatabase(): Promise<TestDatabase> {
  shared ??= sharedServer();
  const serverUrl = await shared;
  const name = `test_${randomBytes(8).toString("hex")}`;
  await administer(serverUrl, `create database ${name} strategy wal_log`);
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  return {
    url: url.href,
    drop: () => administer(serverUrl, `drop database if exists ${name} with (force)`),
  };
}

async function sharedServer(): Promise<string> {
  const given = process.env["TEST_POSTGRES_URL"];
  if (given) return given;
  const dataDir = mkdtempSync(join(tmpdir(), "postgres-test-"));
  chmodSync(dataDir, 0o711);
  let server: EmbeddedPostgres | null = null;
  // A test process ends when nothing is left to do, without a call to a stop function; only
  // synchronous work is possible then. Nothing in the folder is worth an orderly shutdown.
  process.once("exit", () => {
    if (server) process.kill(server.pid, "SIGKILL");
    rmSync(dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
  });
  server = await startEmbeddedPostgres({ dataDir, durable: false });
  return server.url;
}

async function administer(url: string, statement: string): Promise<void> {
  const client = new Client(loginOptions(parsePostgresUrl(url)));
  client.on("error", () => {
    // The failure reaches the awaited call as well.
  });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
