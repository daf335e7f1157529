import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { promisify } from "node:util";
import { Client, DatabaseError } from "pg";
import { createLog, waitFor } from "@platform/daemon";
import { HostError, type DatabaseCredentials } from "@platform/host-api";
import { identify, loginOptions } from "@platform/postgres";
import type { EngineSpec } from "../engine.ts";
import { readState } from "../dedicated/database-state.ts";
import { framesOf, restoreFrom } from "../dedicated/testing.ts";
import { createPostgresEngine, type PostgresEngine } from "./index.ts";
import { processesOfUser } from "../dedicated/measure.ts";

const run = promisify(execFile);
const runsAsRoot = process.getuid?.() === 0;
const never = new AbortController().signal;
const spec = (overrides: Partial<EngineSpec> = {}): EngineSpec => ({
  engine: "postgresql",
  version: "16",
  cpuMillis: 2000,
  memoryBytes: 64 * 1024 * 1024,
  storageBytes: 1024 * 1024 * 1024,
  hostname: "db.tenant.test",
  ...overrides,
});

/** Undoes in reverse order, also after a failure: servers end before their folder goes. */
function cleanup(t: TestContext): (undo: () => unknown) => void {
  const undos: (() => unknown)[] = [];
  t.after(async () => {
    for (const undo of undos.reverse()) await undo();
  });
  return (undo) => undos.push(undo);
}

async function fixture(t: TestContext) {
  const after = cleanup(t);
  const dataDir = mkdtempSync(join(tmpdir(), "engine-"));
  chmodSync(dataDir, 0o711);
  after(() => rmSync(dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 }));
  const open = () => {
    const engine = createPostgresEngine({
      dataDir,
      log: createLog("test", "silent"),
      runsAsRoot,
      superviseEveryMs: 50,
    });
    after(() => engine.close());
    return engine;
  };
  after(async () => {
    const sweeper = open();
    for (const { key } of await sweeper.list()) await sweeper.destroy(key);
    await sweeper.close();
  });
  return { dataDir, open, engine: open(), after };
}

/** As an application would: node-postgres with the parts of the URL and the certificate handed out. */
async function asUser<T>(
  credentials: DatabaseCredentials,
  work: (client: Client) => Promise<T>,
  overrides: Record<string, unknown> = {},
): Promise<T> {
  const client = new Client({
    ...loginOptions({
      host: "127.0.0.1",
      port: credentials.port,
      user: credentials.username,
      password: credentials.password,
      database: credentials.database,
      ssl: { ca: credentials.caCertificate!, servername: credentials.host },
    }),
    ...overrides,
  });
  client.on("error", () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

const refusedWith =
  (...codes: string[]) =>
  (error: unknown) =>
    error instanceof DatabaseError && codes.includes(error.code ?? "");

const serverPid = (dataDir: string, key: string) => {
  const folders = ["disk/data", "cluster"].map((name) => join(dataDir, "databases", key, name));
  const folder = folders.find((path) => existsSync(join(path, "postmaster.pid"))) ?? "";
  return Number(readFileSync(join(folder, "postmaster.pid"), "utf8").split("\n")[0]);
};

async function assertIsolated(engine: PostgresEngine) {
  const one = await engine.credentials("database-1");
  const two = await engine.credentials("database-2");
  await asUser(one, async (client) => {
    const deniedStatements = [
      "copy (select 1) to program 'id'",
      "copy (select 1) to '/tmp/out'",
      "select pg_read_file('/etc/passwd')",
      "create role other",
      "create database other",
      "alter system set log_statement = 'all'",
      "select rolpassword from pg_authid",
      "create extension file_fdw",
    ];
    for (const statement of deniedStatements) {
      await assert.rejects(client.query(statement), refusedWith("42501"), statement);
    }
    const names = await client.query<{ datname: string }>("select datname from pg_database order by 1");
    assert.ok(!names.rows.some(({ datname }) => datname === two.database));
    await client.query("create extension pgcrypto");
  });
  for (const database of ["postgres", "template1"]) {
    await assert.rejects(
      asUser({ ...one, database }, async () => 0),
      refusedWith("42501"),
      database,
    );
  }
  await assert.rejects(
    asUser({ ...two, port: one.port }, async () => 0),
    refusedWith("28P01"),
  );
  const superuser = { ...one, username: "postgres", database: "postgres" };
  await assert.rejects(
    asUser(superuser, async () => 0),
    refusedWith("28P01"),
  );
  await assert.rejects(
    asUser(one, async () => 0, { ssl: false }),
    refusedWith("28000"),
  );
  await assert.rejects(
    asUser(one, async () => 0, { password: () => "wrong" }),
    refusedWith("28P01"),
  );
  await assert.rejects(
    asUser(one, async () => 0, { ssl: { ca: one.caCertificate!, servername: "other.test" } }),
    { code: "ERR_TLS_CERT_ALTNAME_INVALID" },
  );
}

test("databases are proved by login, isolated, survive crashes, rotate and leave nothing behind", async (t) => {
  const { dataDir, open, engine, after } = await fixture(t);
  const poison = {
    PGOPTIONS: "-c statement_timeout=1",
    PGSSLMODE: "disable",
    PGPASSWORD: "wrong",
    PGDATA: "/nowhere",
    PGPORT: "1",
  };
  Object.assign(process.env, poison);
  after(() => {
    for (const name of Object.keys(poison)) delete process.env[name];
  });

  await t.test("concurrent creations of one key make one server, proved over TLS", async () => {
    const [first, again, other] = await Promise.all([
      engine.create("database-1", spec(), never),
      engine.create("database-1", spec(), never),
      engine.create("database-2", spec({ version: "18", hostname: "localhost" }), never),
    ]);
    assert.equal(first.state, "running");
    assert.equal(first.version, "16.14");
    assert.equal(first.proof?.tls, "TLSv1.3");
    assert.equal(again.port, first.port);
    assert.equal(other.version, "18.4");
    assert.notEqual(other.port, first.port);
    assert.equal((await engine.list()).length, 2);
    assert.equal(first.isolation.ownUid, runsAsRoot);
    assert.equal(first.product, "PostgreSQL 16.14");
    const uids = ["database-1", "database-2"].map((key) => statSync(`/proc/${serverPid(dataDir, key)}`).uid);
    if (runsAsRoot) assert.notEqual(uids[0], uids[1]);
    const environment = readFileSync(`/proc/${serverPid(dataDir, "database-1")}/environ`, "utf8");
    assert.ok(!/(^|\0)(PG(?!_)|HOME)/.test(environment), environment);
  });

  await t.test("users stay inside their own database", () => assertIsolated(engine));

  await t.test("psql logs in with the very URL", async (t) => {
    if (!existsSync("/usr/bin/psql")) return t.skip("psql is not installed");
    const { url, host, caCertificate } = await engine.credentials("database-1");
    const caFile = join(dataDir, "ca.pem");
    writeFileSync(caFile, caCertificate!);
    const env = { PATH: "/usr/bin:/bin", PGHOSTADDR: "127.0.0.1", PGSSLROOTCERT: caFile, HOME: dataDir };
    const verified = url.replace("sslmode=require", "sslmode=verify-full");
    for (const target of [url, verified]) {
      const { stdout } = await run(
        "psql",
        ["-XAtc", "select ssl from pg_stat_ssl where pid = pg_backend_pid()", target],
        { env },
      );
      assert.equal(stdout.trim(), "t", host);
    }
  });

  await t.test("node-postgres logs in with the very URL once the authority is trusted", async () => {
    const { url, caCertificate } = await engine.credentials("database-2");
    const caFile = join(dataDir, "ca.pem");
    writeFileSync(caFile, caCertificate!);
    const script = `
      import pg from "pg";
      const client = new pg.Client(process.env.DATABASE_URL);
      await client.connect();
      console.log((await client.query("select ssl from pg_stat_ssl where pid = pg_backend_pid()")).rows[0].ssl);
      await client.end();`;
    const { stdout } = await run(process.execPath, ["--input-type=module", "-e", script], {
      cwd: import.meta.dirname,
      env: { DATABASE_URL: url, NODE_EXTRA_CA_CERTS: caFile },
    });
    assert.equal(stdout.trim(), "true");
  });

  await t.test(
    "a port taken by another program is named, and the database comes back when it is free",
    async (t) => {
      const { port } = await engine.stop("database-2");
      const squatter = createServer().listen(port, "127.0.0.1");
      t.after(() => squatter.close());
      await once(squatter, "listening");
      await assert.rejects(
        engine.start("database-2"),
        (error) => error instanceof HostError && error.details["reason"] === "port_in_use",
      );
      assert.equal((await engine.find("database-2"))?.failure?.reason, "port_in_use");
      squatter.close();
      await waitFor(
        "the database to run",
        async () => (await engine.find("database-2"))?.state === "running",
        30_000,
      );
    },
  );

  await t.test("a killed server comes back with its committed rows", async () => {
    const credentials = await engine.credentials("database-1");
    await asUser(credentials, (client) => client.query("create table kept as select 7 as n"));
    const before = serverPid(dataDir, "database-1");
    process.kill(before, "SIGKILL");
    await waitFor("the crash to be seen", async () => identify(before) === null, 5_000);
    await waitFor(
      "the database to run again",
      async () => (await engine.find("database-1"))?.state === "running",
      30_000,
    );
    assert.notEqual(serverPid(dataDir, "database-1"), before);
    const { rows } = await asUser(credentials, (client) => client.query("select n from kept"));
    assert.deepEqual(rows, [{ n: 7 }]);
  });

  await t.test("a new engine on the folder adopts the running server", async () => {
    const before = serverPid(dataDir, "database-1");
    const next = open();
    await next.recover();
    assert.equal((await next.find("database-1"))?.state, "running");
    assert.equal(serverPid(dataDir, "database-1"), before);
    await next.close();
  });

  await t.test(
    "both accounts hold while a rotation goes on, and what is made by either has one owner",
    async () => {
      const old = await engine.credentials("database-1");
      const session = new Client(
        loginOptions({
          ...old,
          host: "127.0.0.1",
          user: old.username,
          ssl: { ca: old.caCertificate!, servername: old.host },
        }),
      );
      const ended = new Promise((resolve) => session.on("error", resolve));
      await session.connect();
      const fresh = await engine.rotate("database-1");
      assert.notEqual(fresh.password, old.password);
      assert.equal(fresh.port, old.port);
      assert.equal((await engine.find("database-1"))?.rotating, true);
      await asUser(fresh, (client) =>
        client.query("create table by_new (n int); alter table kept add m int"),
      );
      await session.query("insert into by_new values (1)");
      await asUser(fresh, (client) =>
        client.query("set role none; create schema mine; create table mine.own (n int)"),
      );
      await engine.endRotation("database-1");
      await ended;
      await assert.rejects(
        asUser(old, async () => 0),
        refusedWith("28P01", "28000"),
      );
      await asUser(fresh, async (client) => client.query("select n from kept"));
      const third = await engine.rotate("database-1");
      await engine.endRotation("database-1");
      await assert.rejects(
        asUser(fresh, async () => 0),
        refusedWith("28P01", "28000"),
      );
      await asUser(third, (client) => client.query("drop schema mine cascade; drop table by_new"));
      const stored = readFileSync(join(dataDir, "databases/database-1/server.log"), "utf8");
      for (const secret of [old.password, fresh.password]) assert.ok(!stored.includes(secret));
    },
  );

  await t.test("a reader sees every table, also later ones, and changes nothing", async () => {
    const owner = await engine.credentials("database-1");
    const reader = await engine.putUser("database-1", "report", "read");
    assert.deepEqual(await engine.putUser("database-1", "report", "read"), reader);
    await asUser(owner, (client) => client.query("create table later as select 1 as n"));
    await asUser(reader, async (client) => {
      assert.deepEqual((await client.query("select n from later")).rows, [{ n: 1 }]);
      await client.query("set default_transaction_read_only = off");
      for (const statement of [
        "insert into later values (2)",
        "drop table later",
        "create table own (n int)",
        "create temp table own (n int)",
        `set role ${owner.username}`,
      ]) {
        await assert.rejects(client.query(statement), refusedWith("42501"), statement);
      }
    });
    await engine.dropUser("database-1", "report");
    await assert.rejects(
      asUser(reader, async () => 0),
      refusedWith("28P01", "28000"),
    );
    assert.deepEqual(await engine.users("database-1"), []);
  });

  await t.test("a password that the user changed is reported, and rotation repairs it", async () => {
    const credentials = await engine.credentials("database-1");
    await asUser(credentials, (client) =>
      client.query(`set role none; alter role ${credentials.username} password 'drift'`),
    );
    assert.equal((await engine.probe("database-1")).reason, "auth_failed");
    assert.equal((await engine.find("database-1"))?.failure?.reason, "auth_failed");
    await engine.rotate("database-1");
    await engine.endRotation("database-1");
    assert.equal((await engine.find("database-1"))?.state, "running");
  });

  await t.test("stop and start keep port and credentials; stats and logs tell what is", async () => {
    const credentials = await engine.credentials("database-1");
    assert.equal((await engine.stop("database-1")).state, "stopped");
    assert.equal((await engine.probe("database-1")).reason, "unreachable");
    assert.equal((await engine.stats("database-1")).memoryBytes, null);
    assert.equal((await engine.start("database-1")).state, "running");
    assert.deepEqual(await engine.credentials("database-1"), credentials);
    const stats = await asUser(credentials, () => engine.stats("database-1"));
    assert.equal(stats.connections, 1);
    assert.ok(stats.memoryBytes! > 0 && stats.storageBytes! > 0 && stats.uptimeSec! >= 0);
    assert.ok((await engine.logs("database-1", 3)).length === 3);
  });

  await t.test("what cannot be is refused with a reason", async () => {
    await assert.rejects(
      engine.create("database-3", spec({ version: "9" }), never),
      (error) => error instanceof HostError && error.code === "INVALID" && /16, 17, 18/.test(error.message),
    );
    await assert.rejects(
      engine.create("database-1", spec({ version: "17" }), never),
      (error) => error instanceof HostError && error.code === "CONFLICT",
    );
    await assert.rejects(engine.rotate("database-3"), { code: "NOT_FOUND" });
    assert.deepEqual(await engine.report(), { usable: true, versions: ["16", "17", "18"], why: null });
  });

  await t.test("destroy leaves no process and no file, also when called again", async () => {
    const pids = ["database-1", "database-2"].map((key) => serverPid(dataDir, key));
    const owners = pids.map((pid) => statSync(`/proc/${pid}`).uid);
    for (const key of ["database-1", "database-2", "database-1"]) await engine.destroy(key);
    assert.deepEqual(pids.map(identify), [null, null]);
    if (runsAsRoot) assert.deepEqual(owners.flatMap(processesOfUser), []);
    assert.deepEqual(readdirSync(join(dataDir, "databases")), []);
    assert.equal(await engine.find("database-1"), null);
  });
});

test("a backup taken while rows are written becomes a database of its own", async (t) => {
  const { engine } = await fixture(t);
  await engine.create("database-1", spec(), never);
  const one = await engine.credentials("database-1");
  await asUser(one, (client) => client.query("create table kept (n int primary key)"));
  let written = 0;
  let isOver = false;
  const writing = asUser(one, async (client) => {
    while (!isOver) await client.query("insert into kept values ($1)", [++written]);
  });
  await waitFor("rows to be written", () => written > 50, 30_000);
  const atLeast = written - 1;
  const bytes = await framesOf(engine, "database-1");
  isOver = true;
  await writing;
  assert.equal((await restoreFrom(engine, bytes, "database-9", spec())).state, "running");
  const two = await engine.credentials("database-9");
  await asUser(two, async (client) => {
    const { rows } = await client.query<{ count: number; most: number }>(
      "select count(*)::int as count, max(n) as most from kept",
    );
    assert.equal(rows[0]!.count, rows[0]!.most);
    assert.ok(rows[0]!.count >= atLeast && rows[0]!.count <= written, JSON.stringify(rows));
    await client.query("create table own (n int); drop table kept");
  });
  await assert.rejects(
    asUser({ ...one, port: two.port, database: two.database }, async () => 0),
    refusedWith("28P01", "28000"),
  );
  await engine.stop("database-9");
  assert.equal((await engine.start("database-9")).state, "running");
  assert.equal((await asUser(one, (client) => client.query("select 1 from kept"))).rowCount, written);
  await assert.rejects(
    restoreFrom(engine, bytes.subarray(0, bytes.length / 2), "database-8", spec()),
    (error) => error instanceof HostError && error.details["reason"] === "restore_failed",
  );
  assert.equal(await engine.find("database-8"), null);
});

test("over its disk quota a database refuses writes, still answers reads, and survives a crash", async (t) => {
  const { dataDir, engine } = await fixture(t);
  await engine.create("database-1", spec({ storageBytes: 96 * 1024 * 1024 }), never);
  if (!existsSync(join(dataDir, "databases/database-1/disk.img")))
    return t.skip("disks of limited size cannot be mounted here");
  const one = await engine.credentials("database-1");
  await asUser(one, async (client) => {
    await client.query("create table kept as select 7 as n");
    await client.query("create table big (data text)");
    await client.query("alter table big alter data set storage external");
    await assert.rejects(async () => {
      for (let count = 0; count < 300; count++)
        await client.query("insert into big values (repeat('x', 1000000))");
    }, refusedWith("53100"));
    await assert.rejects(
      client.query("create temp table more as select repeat('x', 1000) from generate_series(1, 100000)"),
      refusedWith("53100"),
    );
    assert.deepEqual((await client.query("select n from kept")).rows, [{ n: 7 }]);
  });
  // A checkpoint writes files of its own, and a server that cannot ends.
  const { superuserPassword: password } = readState(join(dataDir, "databases"), "database-1")!;
  const pid = serverPid(dataDir, "database-1");
  const fill = writeFile(
    join(dataDir, "databases/database-1/disk/data/filler"),
    Buffer.alloc(200 * 1024 * 1024),
  );
  await assert.rejects(fill, { code: "ENOSPC" });
  await asUser({ ...one, username: "postgres", password, database: "postgres" }, async (client) => {
    for (let count = 0; count < 3; count++) await client.query("checkpoint");
    const { rows } = await client.query(
      "select pg_postmaster_start_time() < now() - interval '1 second' as old",
    );
    assert.deepEqual(rows, [{ old: true }]);
  });
  assert.equal(serverPid(dataDir, "database-1"), pid);
  rmSync(join(dataDir, "databases/database-1/disk/data/filler"));
  const proof = await engine.probe("database-1");
  assert.deepEqual([proof.ok, proof.reason], [false, "disk_full"]);
  const before = serverPid(dataDir, "database-1");
  process.kill(before, "SIGKILL");
  await waitFor("the crash to be seen", () => identify(before) === null, 10_000);
  await waitFor(
    "the database to answer again",
    () =>
      asUser(one, (client) => client.query("select n from kept")).then(
        () => true,
        () => false,
      ),
    60_000,
  );
  await asUser(one, (client) => client.query("drop table big"));
  await asUser(one, (client) => client.query("checkpoint").catch(() => undefined));
  await waitFor("room to be seen", async () => (await engine.probe("database-1")).ok, 60_000);
  await asUser(one, (client) => client.query("insert into kept values (8)"));
});

test("a database whose state is damaged is neither forgotten nor removed", async (t) => {
  const { dataDir, open } = await fixture(t);
  const folder = join(dataDir, "databases", "database-9");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "state.json"), "{");
  const engine = open();
  await engine.recover();
  for (const attempt of [engine.find("database-9"), engine.destroy("database-9")]) {
    await assert.rejects(attempt, { code: "INTERNAL", details: { reason: "state_damaged" } });
  }
  assert.ok(existsSync(join(folder, "state.json")));
});

test("a creation that is cut off anywhere is removed by the next host and can be made again", async (t) => {
  const { dataDir, open, after } = await fixture(t);
  const faults = join(dataDir, "faults");
  mkdirSync(faults);
  const points = ["after-clone", "after-start", "after-role", "before-state"];
  for (const point of points) {
    writeFileSync(join(faults, `host.postgresql.${point}`), "");
    const script = `
      import { createPostgresEngine } from ${JSON.stringify(import.meta.resolve("./index.ts"))};
      import { createLog } from "@platform/daemon";
      const engine = createPostgresEngine({ dataDir: ${JSON.stringify(dataDir)}, log: createLog("test", "silent"), runsAsRoot: ${runsAsRoot} });
      await engine.create("database-1", ${JSON.stringify(spec())}, new AbortController().signal);`;
    const host = spawn(process.execPath, ["--input-type=module", "-e", script], {
      cwd: import.meta.dirname,
      env: { ...process.env, FAULT_POINTS_DIR: faults },
      stdio: ["ignore", "ignore", "inherit"],
    });
    after(() => host.kill("SIGKILL"));
    const [, signal] = (await once(host, "exit")) as [number | null, string | null];
    assert.equal(signal, "SIGKILL", point);
    assert.deepEqual(readdirSync(join(dataDir, "databases")), ["database-1"], point);
    const { uid } = readState(join(dataDir, "databases"), "database-1") ?? {};
    assert.equal(typeof uid, runsAsRoot ? "number" : "object", point);

    const next = open();
    await next.recover();
    assert.deepEqual(await next.list(), [], point);
    assert.deepEqual(readdirSync(join(dataDir, "databases")), [], point);
    if (uid) assert.deepEqual(processesOfUser(uid), [], point);
    await next.close();
  }
  const engine = open();
  const made = await engine.create("database-1", spec({ hostname: "127.0.0.1" }), never);
  assert.equal(made.state, "running");
});
