import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { accessSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer, isIP, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { after, before } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { createWebSocketStream, WebSocket } from "ws";
import { startOwnPlatform, type OwnPlatform } from "./full/own-platform.ts";

type Json = Record<string, unknown>;
interface Refusal {
  readonly code: string;
  readonly message: string;
  readonly details: Json;
}

const cli = join(import.meta.dirname, "..", "apps", "cli", "src", "main.ts");
const isInstalled = (program: string) =>
  (process.env["PATH"] ?? "").split(":").some((folder) => {
    try {
      accessSync(join(folder, program));
      return true;
    } catch {
      return false;
    }
  });

let platform: OwnPlatform;
const ids: Record<string, string> = {};
before(async () => {
  platform = await startOwnPlatform();
  for (const engine of ["postgresql", "mysql", "redis"]) {
    const { status, body } = await platform.api("POST", "/databases", { name: `access-${engine}`, engine });
    if (status === 503) continue;
    assert.equal(status, 201, JSON.stringify(body));
    ids[engine] = String((body["data"] as Json)["id"]);
  }
  for (const id of Object.values(ids))
    for (let tries = 0; (await platform.must("GET", `/databases/${id}`))["state"] !== "running"; tries++) {
      assert.ok(tries < 600, "the database never ran");
      await delay(100);
    }
});
after(async () => {
  await platform?.stop();
});

const query = (engine: string, sql: string, more: Json = {}) =>
  platform.must("POST", `/databases/${ids[engine]}/query`, { sql, ...more }) as Promise<
    Json & { rows: Json[]; columns: { name: string; type: string }[] }
  >;
async function refused(engine: string, sql: string, more: Json = {}): Promise<Refusal> {
  const { status, body } = await platform.api("POST", `/databases/${ids[engine]}/query`, { sql, ...more });
  assert.equal(status, 422, JSON.stringify(body));
  return body["error"] as Refusal;
}

/** @throws Error with the status when it is no 101 */
async function openTunnel(key: string) {
  const url = `${platform.apiUrl.replace("http", "ws")}/databases/${ids["postgresql"]}/tunnel`;
  const socket = new WebSocket(url, { headers: { authorization: `Bearer ${key}` } });
  await once(socket, "open");
  return createWebSocketStream(socket);
}

interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}
const run = (...args: string[]) =>
  new Promise<Ended>((resolve) => {
    const env = {
      ...process.env,
      MIOSA_ENDPOINT: new URL(platform.apiUrl).origin,
      MIOSA_API_KEY: platform.apiKey,
    };
    execFile(process.execPath, [cli, ...args], { env, timeout: 60_000 }, (error, stdout, stderr) =>
      resolve({ code: error ? Number(error.code ?? 1) : 0, stdout, stderr }),
    );
  });

for (const engine of ["postgresql", "mysql"]) {
  const holder = engine === "mysql" ? "?" : "$1";
  test(`${engine}: a statement changes rows, a question brings them with names and types`, async (t) => {
    if (!ids[engine]) return t.skip("the engine is not installed");
    await query(engine, "create table notes (id int primary key, text varchar(40), price decimal(20,10))");
    const made = await query(
      engine,
      "insert into notes values (1, 'one', 12345678.0000000001), (2, null, 2)",
    );
    assert.equal(made["row_count"], 2);
    const found = await query(
      engine,
      `select id, text, price, id from notes where id >= ${holder} order by id`,
      {
        params: [1],
      },
    );
    assert.deepEqual(found.rows, [
      { id: 1, text: "one", price: "12345678.0000000001", id_2: 1 },
      { id: 2, text: null, price: "2.0000000000", id_2: 2 },
    ]);
    assert.deepEqual(
      found.columns.map(({ name }) => name),
      ["id", "text", "price", "id"],
    );
    assert.equal(found["truncated"], false);
  });

  test(`${engine}: what the server refuses comes with its own code, and a second statement is not run`, async (t) => {
    if (!ids[engine]) return t.skip("the engine is not installed");
    const wrong = await refused(engine, "select nothing from notes");
    assert.equal(wrong.code, "QUERY_FAILED");
    assert.equal(wrong.details["engine_code"], engine === "mysql" ? "1054" : "42703");
    assert.equal(wrong.details["position"], engine === "mysql" ? null : 8);
    const two = await refused(engine, "select 1; drop table notes");
    assert.equal(two.details["reason"], "statement");
    assert.equal((await query(engine, "select count(*) as n from notes"))["row_count"], 1);
  });

  test(`${engine}: read-only is the server's own refusal, by every way of writing`, async (t) => {
    if (!ids[engine]) return t.skip("the engine is not installed");
    for (const sql of [
      "insert into notes values (9, 'x', 1)",
      "drop table notes",
      "create table more (id int)",
      "truncate table notes",
      ...(engine === "mysql" ? [] : ["with gone as (delete from notes returning id) select * from gone"]),
      ...(engine === "mysql" ? [] : ["select set_config('transaction_read_only', 'off', false) from notes"]),
    ])
      assert.equal((await refused(engine, sql, { read_only: true })).details["reason"], "statement", sql);
    assert.deepEqual((await query(engine, "select id from notes order by id", { read_only: true })).rows, [
      { id: 1 },
      { id: 2 },
    ]);
  });

  test(`${engine}: rows, bytes and time have limits that say so`, async (t) => {
    if (!ids[engine]) return t.skip("the engine is not installed");
    const series =
      engine === "mysql" ? "select seq as n from seq_1_to_5000" : "select n from generate_series(1, 5000) n";
    const cut = await query(engine, series);
    assert.deepEqual([cut.rows.length, cut["truncated"], cut["truncated_by"]], [1000, true, "rows"]);
    const exact = await query(engine, series, { max_rows: 5000 });
    assert.deepEqual([exact.rows.length, exact["truncated"]], [5000, false]);
    const wide =
      engine === "mysql"
        ? "select repeat('x', 1000000) as w from seq_1_to_20"
        : "select repeat('x', 1000000) as w from generate_series(1, 20)";
    const heavy = await query(engine, wide);
    assert.deepEqual([heavy.rows.length, heavy["truncated_by"]], [4, "bytes"]);
    const late = await refused(engine, engine === "mysql" ? "select sleep(30)" : "select pg_sleep(30)", {
      timeout_ms: 300,
    });
    assert.equal(late.details["reason"], "timeout");
    const { status } = await platform.api("POST", `/databases/${ids[engine]}/query`, {
      sql: "select 1",
      max_rows: 0,
    });
    assert.equal(status, 422);
  });

  test(`${engine}: metrics count connections, cache hits and slow statements, without their values`, async (t) => {
    if (!ids[engine]) return t.skip("the engine is not installed");
    await query(
      engine,
      engine === "mysql" ? "select sleep(0.6), 'secret-value'" : "select pg_sleep(0.6), 'secret-value'",
    );
    const metrics = await platform.must("GET", `/databases/${ids[engine]}/metrics`);
    const current = metrics["current"] as Json;
    const ratio = current["cache_hit_ratio"] as number;
    assert.ok(ratio > 0 && ratio <= 1, String(ratio));
    const slow = current["slow_queries"] as {
      longer_than_ms: number;
      statements: { text: string; calls: number }[] | null;
    };
    if (engine === "postgresql")
      assert.ok(
        slow.statements!.some(({ text, calls }) => text.includes("pg_sleep($1)") && calls === 1),
        JSON.stringify(slow),
      );
    assert.ok(!JSON.stringify(metrics).includes("secret-value"));
  });
}

test("redis: a query is refused with what to use instead", async (t) => {
  if (!ids["redis"]) return t.skip("the engine is not installed");
  const { code, message } = await refused("redis", "select 1");
  assert.equal(code, "QUERY_UNSUPPORTED");
  assert.match(message, /tunnel/);
  const { current } = (await platform.must("GET", `/databases/${ids["redis"]}/metrics`)) as { current: Json };
  assert.ok("cache_hit_ratio" in current && (current["connections"] as number) >= 0);
});

test("the tunnel carries a driver's own TLS and login", async (t) => {
  const { username, password, database, host, ssl } = (await platform.must(
    "GET",
    `/databases/${ids["postgresql"]}/credentials`,
  )) as unknown as {
    username: string;
    password: string;
    database: string;
    host: string;
    ssl: { ca_certificate: string };
  };
  const tunnel = await openTunnel(platform.apiKey);
  t.after(() => tunnel.destroy());
  const server = createServer((socket) => {
    // What the server says last may come when the driver has left.
    socket.on("error", () => socket.destroy());
    socket.pipe(tunnel).pipe(socket);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const driver = new pg.Client({
    ...{ host: "127.0.0.1", port, user: username, password, database },
    ssl: { ca: ssl.ca_certificate, ...(isIP(host) ? {} : { servername: host }) },
  });
  await driver.connect();
  const { rows } = await driver.query<{ n: string }>("select sum(n) as n from generate_series(1, 200000) n");
  assert.equal(rows[0]!.n, "20000100000");
  const large = await driver.query<{ w: string }>("select repeat('x', 3000000) as w");
  assert.equal(large.rows[0]!.w.length, 3_000_000);
  await driver.end();
  server.close();
});

test("no tunnel and no query without a key, with a key that may only read, or to another tenant's database", async () => {
  const path = `/databases/${ids["postgresql"]}/query`;
  const nobody = await platform.api("POST", path, { sql: "select 1" }, "msk_u_nobody");
  assert.equal(nobody.status, 401);
  const made = await platform.must("POST", "/api-keys", {
    name: "reader",
    key_type: "user",
    scopes: ["databases:read"],
  });
  const reader = await platform.api("POST", path, { sql: "select 1" }, String(made["key"]));
  assert.equal(reader.status, 403);
  await assert.rejects(openTunnel(String(made["key"])), /403/);
});

const shells: Record<string, { program: string; ask: string; answer: RegExp; write: string }> = {
  postgresql: {
    program: "psql",
    ask: "select 6 * 7 as answer",
    answer: /\b42\b/,
    write: "create table x (id int)",
  },
  mysql: {
    program: "mariadb",
    ask: "select 6 * 7 as answer",
    answer: /\b42\b/,
    write: "create table x (id int)",
  },
  redis: { program: "redis-cli", ask: "PING", answer: /PONG/, write: "" },
};
for (const [engine, { program, ask, answer, write }] of Object.entries(shells))
  test(`db shell runs ${program} with the issued login, and leaves no secret behind`, async (t) => {
    if (!ids[engine]) return t.skip("the engine is not installed");
    if (!isInstalled(program)) return t.skip(`${program} is not installed`);
    const before = readdirSync(tmpdir()).filter((name) => name.startsWith("db-shell-"));
    const shown = await run("db", "shell", `access-${engine}`, "--command", ask);
    assert.equal(shown.code, 0, shown.stderr);
    assert.match(shown.stdout, answer);
    const refusedWrite = await run(
      "db",
      "shell",
      `access-${engine}`,
      "--read-only",
      "--command",
      write || "SET a b",
    );
    assert.notEqual(refusedWrite.code, 0);
    assert.match(refusedWrite.stderr, engine === "redis" ? /cannot be made read-only/ : /read.only/i);
    const left = readdirSync(tmpdir()).filter((name) => name.startsWith("db-shell-"));
    assert.deepEqual(left, before);
  });

test("a shell's password is in no process's arguments", async (t) => {
  if (!isInstalled("psql")) return t.skip("psql is not installed");
  const { password } = (await platform.must("GET", `/databases/${ids["postgresql"]}/credentials`)) as {
    password: string;
  };
  const running = run("db", "shell", "access-postgresql", "--command", "select pg_sleep(3)");
  const seen: string[] = [];
  let isOver = false;
  void running.then(() => (isOver = true));
  while (!isOver) {
    for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name)))
      try {
        seen.push(readFileSync(`/proc/${pid}/cmdline`, "utf8"));
      } catch {
        // It ended meanwhile.
      }
    await delay(50);
  }
  assert.ok(seen.some((line) => line.includes("pg_sleep(3)")));
  assert.deepEqual(
    seen.filter((line) => line.includes(password)),
    [],
  );
});

test("query, metrics and logs on the command line, and a missing client is named with how to get it", async (t) => {
  const shown = await run("db", "query", "access-postgresql", "select 1 as one, null as none");
  assert.match(shown.stdout, /ONE|one/);
  const metrics = await run("db", "metrics", "access-postgresql");
  assert.match(metrics.stdout, /cache hits {3}\d/);
  const bad = await run("db", "query", "access-postgresql", "selec 1");
  assert.notEqual(bad.code, 0);
  assert.match(bad.stderr, /QUERY_FAILED/);
  const empty = mkdtempSync(join(tmpdir(), "no-programs-"));
  t.after(() => rmSync(empty, { recursive: true }));
  const missing = await new Promise<Ended>((resolve) =>
    execFile(
      process.execPath,
      [cli, "db", "shell", "access-postgresql"],
      {
        env: {
          HOME: empty,
          PATH: empty,
          MIOSA_ENDPOINT: new URL(platform.apiUrl).origin,
          MIOSA_API_KEY: platform.apiKey,
        },
      },
      (error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? 1) : 0, stdout, stderr }),
    ),
  );
  assert.match(missing.stderr, /psql is not installed.*|apt-get install postgresql-client/s);
});
