import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { once } from "node:events";
import { join } from "node:path";
import { test } from "node:test";
import { Client } from "pg";
import { waitFor } from "@platform/daemon";
import type { DatabaseCredentials } from "@platform/host-api";
import { loginOptions } from "@platform/postgres";
import { runsAsRoot, never, startTestEngine } from "../../dedicated/testing.ts";
import { readState } from "../../dedicated/database-state.ts";
import { findServer } from "../../dedicated/running.ts";
import { createPostgresEngine } from "../index.ts";
import { findPgbouncer, installLine } from "./pgbouncer.ts";

const skip = findPgbouncer() === null && `pgbouncer is not installed: ${installLine}`;
const spec = {
  engine: "postgresql" as const,
  version: "16",
  cpuMillis: 2000,
  memoryBytes: 160 * 1024 * 1024,
  storageBytes: 1024 * 1024 * 1024,
  hostname: "db.tenant.test",
};

async function connected(
  { username, password, database, caCertificate, host }: DatabaseCredentials,
  port: number,
): Promise<Client> {
  const ssl = { ca: caCertificate!, servername: host };
  const client = new Client(
    loginOptions({ host: "127.0.0.1", port, user: username, password, database, ssl }),
  );
  client.on("error", () => undefined);
  await client.connect();
  return client;
}

async function first(client: Client, text: string): Promise<Record<string, unknown>> {
  const { rows } = await client.query<Record<string, unknown>>(text);
  return rows[0]!;
}

test("a pooled connection beside the direct one", { skip }, async (t) => {
  const { engine, dataDir, open } = startTestEngine(t, createPostgresEngine);
  const key = "database-1";
  await engine.create(key, spec, never);
  const issued = await engine.credentials(key);
  const port = issued.pooledPort!;
  assert.ok(port, JSON.stringify((await engine.find(key))!.pooling));
  const poolerPid = () =>
    findServer(["pgbouncer"], join(dataDir, "databases", key, "pooler", "pooler.ini"))?.pid ?? 0;

  await t.test("it is a URL of its own, proved by a login through it", async () => {
    assert.equal(new URL(issued.pooledUrl!).port, String(port));
    assert.notEqual(port, issued.port);
    const { pooling } = (await engine.find(key))!;
    assert.equal(pooling?.state, "running");
    const client = await connected(issued, port);
    assert.deepEqual(await first(client, "select current_database() as name"), { name: issued.database });
    await client.end();
  });

  await t.test("named prepared statements hold on whatever server connection comes", async () => {
    const clients = await Promise.all(Array.from({ length: 12 }, () => connected(issued, port)));
    const seen = new Set<number>();
    const use = async (client: Client, index: number) => {
      for (let round = 0; round < 20; round++) {
        const { rows } = await client.query<{ n: number; pid: number }>({
          name: `same-name-${round % 3}`,
          text: `select $1::int + ${round % 3} as n, pg_backend_pid() as pid, pg_sleep(0.002)`,
          values: [index * 1000],
        });
        assert.equal(rows[0]!.n, index * 1000 + (round % 3));
        seen.add(rows[0]!.pid);
      }
    };
    await Promise.all(clients.map(use));
    assert.ok(seen.size > 1 && seen.size < clients.length, `${seen.size} server connections`);
    // An error in the middle leaves the order of answers right.
    const broken = { name: "broken", text: "select 1 / $1::int as n" };
    await assert.rejects(clients[0]!.query({ ...broken, values: [0] }), { code: "22012" });
    await assert.rejects(clients[0]!.query({ name: "wrong", text: "select no_such" }), { code: "42703" });
    assert.equal((await clients[0]!.query<{ n: number }>({ ...broken, values: [1] })).rows[0]?.n, 1);
    await Promise.all(clients.map((client) => client.end()));
  });

  await t.test("values and answers of many megabytes pass whole", async () => {
    const client = await connected(issued, port);
    const large = Buffer.alloc(5_000_000, "some bytes\0");
    for (let round = 0; round < 2; round++) {
      const { rows } = await client.query<{ it: Buffer }>({
        ...{ name: "large", text: "select $1::bytea as it" },
        values: [large],
      });
      assert.ok(rows[0]!.it.equals(large));
    }
    await client.end();
  });

  await t.test("without encryption nobody is let in", async () => {
    const socket = connect(port, "127.0.0.1");
    const startup = Buffer.from(`\0\0\0\0\0\x03\0\0user\0${issued.username}\0\0`, "latin1");
    startup.writeUInt32BE(startup.length, 0);
    socket.write(startup);
    const [answer] = (await once(socket, "data")) as [Buffer];
    assert.match(answer.toString("latin1"), /^E.*28000/s);
    socket.destroy();
  });

  await t.test("thirty greedy previews leave production its connections", async () => {
    const previews = (await engine.place(key, port, "previews"))!;
    assert.notEqual(previews.port, port);
    const greedy = await Promise.all(Array.from({ length: 30 }, () => connected(issued, previews.port)));
    // Each takes a connection and keeps it, in a transaction that it does not end.
    const waiting = greedy.map((client) => client.query("begin").then(() => client.query("select 1")));
    const settled = Promise.allSettled(waiting);
    const production = await Promise.all(Array.from({ length: 7 }, () => connected(issued, port)));
    await Promise.all(production.map((client) => client.query("begin")));
    for (const client of production) assert.deepEqual(await first(client, "select 1 as one"), { one: 1 });
    const direct = await connected(issued, issued.port);
    const taken = await first(
      direct,
      "select count(*)::int as count from pg_stat_activity where state = 'idle in transaction'",
    );
    assert.deepEqual(taken, { count: 7 + 4 });
    for (const client of [...greedy, ...production, direct]) await client.end();
    await settled;
    // Direct connections of previews have a limit too; production has none but the server's.
    assert.deepEqual(await engine.place(key, issued.port, "previews"), { port: issued.port, most: 3 });
    assert.deepEqual(await engine.place(key, issued.port, "production"), { port: issued.port, most: null });
  });

  await t.test("a rotation goes through it: both pairs, then only the new one", async () => {
    const before = await connected(issued, port);
    const fresh = await engine.rotate(key);
    assert.equal(fresh.pooledPort, port);
    for (const pair of [issued, fresh]) await (await connected(pair, port)).end();
    const ended = new Promise<void>((resolve) => before.once("end", resolve));
    await engine.endRotation(key);
    await ended;
    await assert.rejects(connected(issued, port));
    await (await connected(fresh, port)).end();
    const reader = await engine.putUser(key, "reports", "read");
    const client = await connected(reader, reader.pooledPort!);
    await assert.rejects(client.query("create table t (id int)"), { code: "25006" });
    await client.end();
    await engine.dropUser(key, "reports");
    await assert.rejects(connected(reader, port));
  });

  await t.test("killed, it is not said to serve, and comes back", async () => {
    const pid = poolerPid();
    process.kill(pid, "SIGKILL");
    await waitFor(
      "the state to say so",
      async () => (await engine.find(key))!.pooling?.state !== "running",
      5000,
      1,
    );
    await waitFor(
      "the pooler to be back",
      async () => (await engine.find(key))!.pooling?.state === "running",
      20_000,
    );
    assert.notEqual(poolerPid(), pid);
    assert.equal((await engine.find(key))!.state, "running");
    const credentials = await engine.credentials(key);
    await (await connected(credentials, credentials.pooledPort!)).end();
  });

  await t.test("a daemon that starts again adopts it; a stopped database has none", async () => {
    const pid = poolerPid();
    await engine.close();
    const next = open();
    await next.recover();
    assert.equal(poolerPid(), pid);
    const credentials = await next.credentials(key);
    await (await connected(credentials, credentials.pooledPort!)).end();
    const stopped = await next.stop(key);
    assert.equal(stopped.pooling?.state, "stopped");
    assert.equal(poolerPid(), 0);
    assert.equal((await next.start(key)).pooling?.state, "running");
    const state = readState(join(dataDir, "databases"), key)!;
    const words = readFileSync(`/proc/${poolerPid()}/cmdline`, "utf8");
    assert.ok(!words.includes(state.password));
    if (runsAsRoot)
      assert.match(readFileSync(`/proc/${poolerPid()}/status`, "utf8"), new RegExp(`Uid:\\s${state.uid}`));
    await next.destroy(key);
    assert.equal(poolerPid(), 0);
  });
});
