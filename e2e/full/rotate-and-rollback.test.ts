import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { Client } from "pg";
import { ProcessAccounting, whyNoAccounting } from "./accounting/processes.ts";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";

interface Release {
  readonly id: string;
  readonly versionId: string;
}
interface Credentials {
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly database: string;
  readonly ssl: { readonly ca_certificate: string };
}

/** Writes a row and reads all of them with each request, and says as whom. */
const server = (name: string) => `import { createServer } from "node:http";
import pg from "pg";
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
pool.on("error", () => undefined);
await pool.query("create table if not exists visits (id bigserial primary key, release text)");
createServer(async (req, res) => {
  try {
    await pool.query("insert into visits (release) values ($1)", ["${name}"]);
    const { rows } = await pool.query("select count(*)::int as visits, session_user as login from visits");
    res.end(JSON.stringify({ release: "${name}", ...rows[0] }));
  } catch (error) {
    res.statusCode = 500;
    res.end(String(error));
  }
}).listen(process.env.PORT);
`;

async function visit(platform: OwnPlatform, url: string) {
  const { status, text } = await platform.visit(url);
  assert.equal(status, 200, text.slice(0, 500));
  return JSON.parse(text) as { release: string; visits: number; login: string };
}

async function login(credentials: Credentials): Promise<string> {
  const { username: user, ssl, ...rest } = credentials;
  const client = new Client({
    ...{ host: "127.0.0.1", port: rest.port, database: rest.database, password: rest.password, user },
    ssl: { ca: ssl.ca_certificate },
  });
  try {
    await client.connect();
    return String((await client.query<{ login: string }>("select session_user as login")).rows[0]!.login);
  } finally {
    await client.end();
  }
}

/** By process number. */
const running = () =>
  new Map(
    readdirSync("/proc").flatMap((pid): [string, string][] => {
      try {
        return /^\d+$/.test(pid) ? [[pid, readFileSync(`/proc/${pid}/comm`, "utf8").trim()]] : [];
      } catch {
        return []; // It ended meanwhile.
      }
    }),
  );

test("credentials rotate, the deployment goes back by two releases: it reads and writes, and nothing was built", async (t) => {
  const why = whyNoAccounting();
  if (why !== null) return t.skip(why);
  const platform = await startOwnPlatform();
  t.after(() => platform.stop());
  const accounting = new ProcessAccounting();
  t.after(() => accounting.remove());
  const mark = `made-${Math.random().toString(36).slice(2, 8)}`;
  const sandboxId = await platform.sandbox("rotating", {
    "package.json": JSON.stringify({
      name: "app",
      private: true,
      type: "module",
      dependencies: { pg: "8.23.1" },
    }),
  });
  const database = String((await platform.must("POST", "/databases", { name: "rotating" }))["id"]);
  const databaseState = async () => (await platform.must("GET", `/databases/${database}`))["state"];
  for (let tries = 0; (await databaseState()) !== "running"; tries++) {
    assert.ok(tries < 600, "the database never ran");
    await delay(100);
  }
  const deployment = String((await platform.must("POST", "/deployments", { name: "rotating" }))["id"]);
  const path = `/deployments/${deployment}`;
  await platform.must("POST", `${path}/database`, { database_id: database });

  const releases: Release[] = [];
  let url = "";
  accounting.begin();
  for (const name of ["one", "two", "three"]) {
    const content = Buffer.from(server(name)).toString("base64");
    await platform.must("POST", `/sandboxes/${sandboxId}/files`, { path: "server.js", content });
    const published = await platform.must("POST", `${path}/publish`, {
      source_sandbox_id: sandboxId,
      // A program with a name of its own, in each build.
      build_command: `cp /bin/true /tmp/${mark} && /tmp/${mark}`,
      run_command: "node server.js",
    });
    const [release, made] = [published["release"], published["deployment"]] as Record<string, string>[];
    releases.push({ id: release!["id"]!, versionId: release!["deployment_version_id"]! });
    url = made!["public_url"]!;
  }
  const ofBuilds = accounting.end();
  assert.equal(ofBuilds.filter((name) => name === mark).length, 3, "the accounts show each build");
  assert.ok(
    ofBuilds.some((name) => name.startsWith("npm")),
    "and its install",
  );
  const builds = async () => ((await platform.api("GET", `${path}/builds`)).body["data"] as unknown[]).length;
  assert.equal(await builds(), 3);
  const before = await visit(platform, url);
  assert.equal(before.release, "three");
  const old = (await platform.must("GET", `/databases/${database}/credentials`)) as unknown as Credentials;
  assert.equal(await login(old), old.username);

  const earlier = running();
  accounting.begin();
  const fresh = (await platform.must("POST", `/databases/${database}/rotate`, {})) as unknown as Credentials;
  assert.notEqual(fresh.password, old.password);
  const oldIsRefused = async () =>
    login(old).then(
      () => false,
      (error: { code?: string }) => error.code === "28P01" || error.code === "28000",
    );
  for (let tries = 0; !(await oldIsRefused()); tries++) {
    assert.ok(tries < 600, "the old credentials were never refused");
    await delay(200);
  }
  let visits = (await visit(platform, url)).visits;
  const served: string[] = [];
  for (const release of ["two", "one"]) {
    await platform.must("POST", `${path}/rollback`, {});
    const seen = await visit(platform, url);
    served.push(seen.release);
    assert.equal(seen.release, release);
    assert.ok(seen.visits > visits, "the row that it wrote is among those that it read");
    visits = seen.visits;
  }
  const ofRollbacks = accounting.end();
  // What ran before already, such as the program that runs this test, is no part of it.
  const begun = [...running()].filter(([pid]) => !earlier.has(pid)).map(([, name]) => name);
  t.diagnostic(
    `${ofRollbacks.length} processes ended meanwhile: ${[...new Set(ofRollbacks)].sort().join(", ")}`,
  );
  assert.deepEqual(served, ["two", "one"]);
  assert.deepEqual(
    [...ofRollbacks, ...begun].filter((name) => name === mark || name.startsWith("npm")),
    [],
  );
  assert.equal(await builds(), 3);
  assert.equal(await login(fresh), fresh.username);
  // Whatever login each process uses, its session exists now, after the old one was shut out.
  const { login: used } = await visit(platform, url);
  assert.notEqual(used, old.username);
});
