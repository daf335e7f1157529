import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { setTimeout as delay } from "node:timers/promises";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";

const run = promisify(execFile);
const { PATH, HOME } = process.env;

let platform: OwnPlatform;
let folder: string;
let credentials: { url: string; pooled_url?: string; ssl: { ca_certificate: string } };

before(async () => {
  folder = mkdtempSync(join(tmpdir(), "orm-clients-"));
  cpSync(join(import.meta.dirname, "orm-clients"), folder, { recursive: true });
  const install = run("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund"], {
    ...{ cwd: folder, timeout: 240_000 },
  });
  platform = await startOwnPlatform();
  await install;
  // The engine that only migrations need is a download of its own and is not used here.
  await run("npx", ["prisma", "generate"], {
    ...{ cwd: folder, timeout: 120_000 },
    env: { ...process.env, CHECKPOINT_DISABLE: "1", PRISMA_SCHEMA_ENGINE_BINARY: process.execPath },
  });
  const { id } = await platform.must("POST", "/databases", { name: "orm" });
  for (let tries = 0; ; tries++) {
    if ((await platform.must("GET", `/databases/${String(id)}`))["state"] === "running") break;
    assert.ok(tries < 600, "the database does not come up");
    await delay(100);
  }
  credentials = (await platform.must("GET", `/databases/${String(id)}/credentials`)) as typeof credentials;
});
after(async () => {
  await platform?.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** What the program says of itself; with `make` it makes its tables first. */
async function said(program: string, url: string, tables: "make" | "known"): Promise<unknown> {
  const plain = new URL(url);
  // The driver's own words for `require` do not take a certificate of an authority.
  plain.searchParams.delete("sslmode");
  const { stdout } = await run(process.execPath, ["--no-warnings", program], {
    ...{ cwd: folder, timeout: 120_000 },
    env: { PATH, HOME, DB_URL: plain.href, DB_CA: credentials.ssl.ca_certificate, TABLES: tables },
  });
  return JSON.parse(stdout.trim().split("\n").at(-1)!);
}

const prisma = { nested: 2, refused: "P2002", undone: "undone", notes: 43, tls: true };
const drizzle = {
  ...{ refused: "23505", undone: "undone", prepared: 40, minutes: 45 },
  facts: { rooms: ["a", "b"] },
};

test("Prisma Client: relations, constraints, transactions and 40 writes at once, directly", async () => {
  assert.deepEqual(await said("prisma.mjs", credentials.url, "make"), prisma);
});

test("the same through the pooler", async (t) => {
  if (!credentials.pooled_url) return t.skip("pgbouncer is not installed");
  assert.deepEqual(await said("prisma.mjs", credentials.pooled_url, "known"), prisma);
});

test("Drizzle: its migrations, constraints, transactions and prepared statements, directly", async () => {
  assert.deepEqual(await said("drizzle.mjs", credentials.url, "make"), drizzle);
});

test("the same through the pooler, prepared statements by name included", async (t) => {
  if (!credentials.pooled_url) return t.skip("pgbouncer is not installed");
  assert.deepEqual(await said("drizzle.mjs", credentials.pooled_url, "known"), drizzle);
});
