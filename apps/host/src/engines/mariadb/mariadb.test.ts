import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { createConnection, type Connection } from "mysql2/promise";
import { waitFor } from "@platform/daemon";
import { HostError, type DatabaseCredentials } from "@platform/host-api";
import { identify } from "@platform/postgres";
import { framesOf, hasDisk, never, restoreFrom, runsAsRoot, startTestEngine } from "../dedicated/testing.ts";
import { processesOfUser } from "../dedicated/measure.ts";
import type { EngineSpec } from "../engine.ts";
import { createMariadbEngine } from "./index.ts";
import { rowsOf } from "./login.ts";
import { report } from "./programs.ts";

const run = promisify(execFile);
const mib = 1024 * 1024;
const { usable, why } = await report();
const spec = (overrides: Partial<EngineSpec> = {}): EngineSpec => ({
  ...{ engine: "mysql", version: "10.11", cpuMillis: 2000, hostname: "localhost" },
  ...{ memoryBytes: 256 * mib, storageBytes: 256 * mib },
  ...overrides,
});

/** As an application would: mysql2 with the very URL, the authority trusted. */
async function asUser<T>(
  { url, caCertificate }: DatabaseCredentials,
  work: (connection: Connection) => Promise<T>,
): Promise<T> {
  const parsed = new URL(url);
  const ssl = JSON.parse(parsed.searchParams.get("ssl") ?? "null") as object;
  parsed.search = "";
  const connection = await createConnection({ uri: parsed.href, ssl: { ...ssl, ca: caCertificate! } });
  connection.on("error", () => undefined);
  try {
    return await work(connection);
  } finally {
    connection.destroy();
  }
}

const refused =
  (...numbers: number[]) =>
  (error: unknown) => {
    assert.ok(numbers.includes((error as { errno: number }).errno), String(error));
    return true;
  };

/** Access denied to a database, a table, a routine or a privilege; no such thread, account or role. */
const denials = [
  1044, 1045, 1049, 1094, 1095, 1142, 1148, 1227, 1290, 1305, 1370, 1396, 1699, 1959, 1976, 4166,
];

const serverPid = (dataDir: string, key: string) => {
  const data = ["disk/data", "cluster"].map((name) => join(dataDir, "databases", key, name)).find(existsSync);
  return Number(readFileSync(join(data!, "server.pid"), "utf8"));
};

test(
  "MySQL databases are proved by login, isolated, kept to their size, and leave nothing behind",
  {
    skip: usable ? false : (why ?? true),
  },
  async (t) => {
    const { dataDir, open, engine } = startTestEngine(t, createMariadbEngine);

    await t.test("concurrent creations of one key make one server, and it says what it is", async () => {
      const [first, again, other] = await Promise.all([
        engine.create("database-1", spec(), never),
        engine.create("database-1", spec(), never),
        engine.create("database-2", spec({ hostname: "db.tenant.test" }), never),
      ]);
      assert.equal(first.state, "running");
      assert.match(first.product, /^MySQL-compatible \(MariaDB 10\.11\.\d+\)$/);
      assert.equal(first.proof?.tls, "TLSv1.3");
      assert.equal(again.port, first.port);
      assert.notEqual(other.port, first.port);
      const pids = ["database-1", "database-2"].map((key) => serverPid(dataDir, key));
      const uids = pids.map((pid) => statSync(`/proc/${pid}`).uid);
      if (runsAsRoot) assert.notEqual(uids[0], uids[1]);
      const secrets = ["database-1", "database-2"].map((key) => engine.credentials(key));
      for (const { password } of await Promise.all(secrets))
        for (const pid of pids) assert.ok(!readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(password));
      assert.ok(!existsSync(join(dataDir, "databases/database-1/first.sql")));
    });

    await t.test("an account gets nowhere but into its own database, and not without TLS", async () => {
      const one = await engine.credentials("database-1");
      const two = await engine.credentials("database-2");
      await asUser(one, async (connection) => {
        const names = (await rowsOf(connection, "show databases")).map((row) => String(row["Database"]));
        assert.deepEqual(names.sort(), [one.database, "information_schema"].sort());
        const similar = one.database.replace("_", "x");
        const denied = [
          `create database ${similar}`,
          "create database other",
          "select * from mysql.global_priv",
          "select * from mysql.user",
          "use mysql",
          "select 1 into outfile '/tmp/out'",
          "load data infile '/etc/passwd' into table t",
          "set global max_connections = 1000",
          "set global read_only = 0",
          "set session sql_log_bin = 0",
          "create user other identified by 'x'",
          `grant all on *.* to '${one.username}'@'%'`,
          "install soname 'ha_connect'",
          "create function sys_exec returns int soname 'lib.so'",
          "shutdown",
          "kill 1",
          "flush tables with read lock",
          "show master status",
          "change master to master_host='127.0.0.1'",
          "create server s foreign data wrapper mysql options (host '127.0.0.1')",
          "alter user 'administrator'@'127.0.0.1' identified by 'x'",
          "set role administrator",
          "set password for 'administrator'@'127.0.0.1' = password('x')",
        ];
        await connection.query("create table t (content text)");
        for (const statement of denied)
          await assert.rejects(connection.query(statement), refused(...denials), statement);
        const [file] = await rowsOf(connection, "select load_file('/etc/passwd') as content");
        assert.equal(file?.["content"], null);
        const others = await rowsOf(connection, "show processlist");
        assert.ok(others.every((row) => row["User"] === one.username));
      });
      const plain = new URL(one.url);
      plain.search = "";
      await assert.rejects(createConnection(plain.href), refused(1045, 3159));
      await assert.rejects(
        asUser(
          {
            ...two,
            url: two.url.replace(`:${two.port}/`, `:${one.port}/`).replace("db.tenant.test", "localhost"),
          },
          async () => 0,
        ),
        refused(1045),
      );
      for (const name of ["administrator", "root", "mariadb.sys"])
        await assert.rejects(
          asUser({ ...one, url: one.url.replace(one.username, name) }, async () => 0),
          refused(1045, 4151),
        );
    });

    await t.test("the mariadb client logs in with the parts of the URL", async (t) => {
      if (!existsSync("/usr/bin/mariadb")) return t.skip("mariadb-client-core is not installed");
      const one = await engine.credentials("database-1");
      const [caFile, optionFile] = ["ca.pem", "client.cnf"].map((name) => join(dataDir, name));
      writeFileSync(caFile!, one.caCertificate!);
      const lines = ["[client]", `user=${one.username}`, `password=${one.password}`, "host=127.0.0.1"];
      const tls = [`port=${one.port}`, `ssl-ca=${caFile}`, "ssl-verify-server-cert"];
      writeFileSync(optionFile!, [...lines, ...tls].join("\n"), { mode: 0o600 });
      const { stdout } = await run("mariadb", [
        `--defaults-file=${optionFile}`,
        "-Ne",
        "select 7",
        one.database,
      ]);
      assert.equal(stdout.trim(), "7");
    });

    await t.test(
      "a killed server comes back with its committed rows, and a new engine adopts it",
      async () => {
        const one = await engine.credentials("database-1");
        await asUser(one, (connection) => connection.query("create table kept as select 7 as n"));
        const before = serverPid(dataDir, "database-1");
        process.kill(before, "SIGKILL");
        await waitFor("the crash to be seen", () => identify(before) === null, 10_000);
        const isBack = async () => (await engine.find("database-1"))?.state === "running";
        await waitFor("the database to run again", isBack, 60_000);
        assert.deepEqual(await asUser(one, (connection) => rowsOf(connection, "select n from kept")), [
          { n: 7 },
        ]);
        const pid = serverPid(dataDir, "database-1");
        const next = open();
        await next.recover();
        assert.equal((await next.find("database-1"))?.state, "running");
        assert.equal(serverPid(dataDir, "database-1"), pid);
        await next.close();
      },
    );

    await t.test("both accounts hold while a rotation goes on; then the old one's sessions end", async () => {
      const old = await engine.credentials("database-1");
      await asUser(old, async (session) => {
        const ended = new Promise((resolve) => session.once("error", resolve));
        await session.query("create view shown as select n from kept");
        const fresh = await engine.rotate("database-1");
        await session.query("select 1");
        await asUser(fresh, (connection) => connection.query("insert into kept values (8)"));
        await engine.endRotation("database-1");
        await ended;
        await assert.rejects(
          asUser(old, async () => 0),
          refused(1045, 4151),
        );
        const rows = await asUser(fresh, (connection) =>
          rowsOf(connection, "select n from shown order by n"),
        );
        assert.deepEqual(rows, [{ n: 7 }, { n: 8 }]);
      });
      const reader = await engine.putUser("database-1", "report", "read");
      await asUser(reader, async (connection) => {
        assert.equal((await rowsOf(connection, "select n from kept")).length, 2);
        await assert.rejects(connection.query("delete from kept"), refused(1142));
        await assert.rejects(connection.query("create table own (n int)"), refused(1142));
      });
      await engine.dropUser("database-1", "report");
      await assert.rejects(
        asUser(reader, async () => 0),
        refused(1045),
      );
    });

    await t.test(
      "a backup becomes a database of its own; nobody who logged in to the first one can",
      async (t) => {
        if (!existsSync("/usr/bin/mariadb-backup")) return t.skip("mariadb-backup is not installed");
        const one = await engine.credentials("database-1");
        const bytes = await framesOf(engine, "database-1");
        await asUser(one, (connection) => connection.query("insert into kept values (99)"));
        assert.equal((await restoreFrom(engine, bytes, "database-9", spec())).state, "running");
        const two = await engine.credentials("database-9");
        await asUser(two, async (connection) => {
          assert.deepEqual(await rowsOf(connection, "select n from kept order by n"), [{ n: 7 }, { n: 8 }]);
          await connection.query("create table own (n int)");
        });
        const foreign = { ...two, url: one.url.replace(`:${one.port}/`, `:${two.port}/`) };
        await assert.rejects(
          asUser(foreign, async () => 0),
          refused(1045, 4151),
        );
        await assert.rejects(
          restoreFrom(engine, bytes.subarray(0, bytes.length / 2), "database-8", spec()),
          (error) => error instanceof HostError && error.details["reason"] === "restore_failed",
        );
        assert.equal(await engine.find("database-8"), null);
        await engine.destroy("database-9");
        await asUser(one, (connection) => connection.query("delete from kept where n = 99"));
      },
    );

    await t.test("over its disk quota a database refuses writes and still answers reads", async (t) => {
      if (!hasDisk(dataDir, "database-1")) return t.skip("disks of limited size cannot be mounted here");
      const one = await engine.credentials("database-1");
      await asUser(one, (connection) =>
        connection.query("create table big (id int primary key auto_increment, data longblob)"),
      );
      const fill = () =>
        asUser(one, (connection) => connection.query("insert into big (data) values (repeat('x', 4000000))"));
      // The session that is on when the limit is seen is ended; every later one has no right to insert.
      await waitFor(
        "writes to be refused",
        () =>
          fill().then(
            () => false,
            (error: { errno?: number }) => error.errno === 1142,
          ),
        60_000,
        1,
      );
      await asUser(one, async (connection) => {
        assert.equal((await rowsOf(connection, "select n from kept")).length, 2);
        const attempts = [
          "insert into kept values (9)",
          "update kept set n = 9",
          "create table more (n int)",
          "alter table kept add m int",
          "create temporary table more (n int)",
          "replace into kept values (9)",
          "load data local infile '/etc/passwd' into table kept",
          "create procedure more() insert into kept values (9)",
          "call mysql.AddGeometryColumn('a', 'b', 'c', 'd', 1)",
          "create sequence more",
          "set global read_only = 0",
        ];
        for (const statement of attempts)
          await assert.rejects(connection.query(statement), refused(...denials), statement);
      });
      assert.equal((await engine.probe("database-1")).reason, "disk_full");
      const image = statSync(join(dataDir, "databases/database-1/disk.img"));
      assert.ok(image.blocks * 512 < 400 * mib);
      await asUser(one, (connection) => connection.query("drop table big"));
      await waitFor("room to be seen", async () => (await engine.probe("database-1")).ok, 30_000);
      const insert = () => asUser(one, (connection) => connection.query("insert into kept values (9)"));
      await waitFor(
        "writes to be let through",
        () =>
          insert().then(
            () => true,
            () => false,
          ),
        30_000,
      );
    });

    await t.test("what cannot be is refused with a reason", async () => {
      await assert.rejects(
        engine.create("database-3", spec({ version: "8.0" }), never),
        (error) =>
          error instanceof HostError && error.code === "INVALID" && /MariaDB 10\.11/.test(error.message),
      );
      await assert.rejects(
        engine.create("database-3", spec({ memoryBytes: 64 * mib }), never),
        (error) => error instanceof HostError && error.details["reason"] === "memory_too_small",
      );
    });

    await t.test("destroy leaves no process, mount or file", async () => {
      const pids = ["database-1", "database-2"].map((key) => serverPid(dataDir, key));
      const owners = pids.map((pid) => statSync(`/proc/${pid}`).uid);
      for (const key of ["database-1", "database-2", "database-1"]) await engine.destroy(key);
      assert.deepEqual(pids.map(identify), [null, null]);
      if (runsAsRoot) assert.deepEqual(owners.flatMap(processesOfUser), []);
      assert.deepEqual(readdirSync(join(dataDir, "databases")), []);
      assert.ok(!readFileSync("/proc/self/mountinfo", "utf8").includes(dataDir));
    });
  },
);
