import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import {
  assertLease,
  createPool,
  leaseMigration,
  LeaseLostError,
  listen,
  migrate,
  query,
  transaction,
  withLease,
} from "./index.ts";
import { createTestDatabase } from "./testing.ts";

async function freshPool(t: TestContext) {
  const database = await createTestDatabase();
  const pool = createPool(database.url, { max: 5 });
  t.after(async () => {
    await pool.end();
    await database.drop();
  });
  return { pool, url: database.url };
}

test("two programs that migrate at once apply each migration once", async (t) => {
  const { pool } = await freshPool(t);
  const migrations = [
    { name: "1", sql: "create table a (id int); insert into a values (1)" },
    { name: "2", sql: "insert into a values (2)" },
  ];
  const applied = await Promise.all([migrate(pool, migrations), migrate(pool, migrations)]);
  assert.deepEqual(applied.flat().sort(), ["1", "2"]);
  assert.deepEqual(await query(pool, "select id from a order by id"), [{ id: 1 }, { id: 2 }]);
});

test("a changed migration is refused by name and a failing one leaves no trace", async (t) => {
  const { pool } = await freshPool(t);
  await migrate(pool, [{ name: "1", sql: "create table a (id int)" }]);
  await assert.rejects(
    migrate(pool, [{ name: "1", sql: "create table b (id int)" }]),
    /Migration 1 was changed/,
  );
  await assert.rejects(
    migrate(pool, [{ name: "2", sql: "create table c (id int); select 1/0" }]),
    /Migration 2 failed: division by zero/,
  );
  assert.deepEqual(await query(pool, "select to_regclass('c') as c"), [{ c: null }]);
});

test("a transaction runs again after a serialization failure", async (t) => {
  const { pool } = await freshPool(t);
  await pool.query("create table counter (n int); insert into counter values (0)");
  const increment = () =>
    transaction(
      pool,
      async (client) => {
        const [row] = await query<{ n: number }>(client, "select n from counter");
        await client.query("update counter set n = $1", [row!.n + 1]);
      },
      { isolation: "repeatable read" },
    );
  await Promise.all([increment(), increment(), increment()]);
  assert.deepEqual(await query(pool, "select n from counter"), [{ n: 3 }]);
});

test("inherited PG variables change no connection", async (t) => {
  const { pool } = await freshPool(t);
  const poison = {
    PGOPTIONS: "-c statement_timeout=1",
    PGSSLMODE: "require",
    PGPASSWORD: "wrong",
    PGAPPNAME: "x",
  };
  Object.assign(process.env, poison);
  t.after(() => {
    for (const name of Object.keys(poison)) delete process.env[name];
  });
  assert.deepEqual(
    await query(
      pool,
      "select current_setting('statement_timeout') as t, current_setting('application_name') as a",
    ),
    [{ t: "30s", a: "platform" }],
  );
});

test("a lease has one holder, grows its epoch, and is renewed while work lasts", async (t) => {
  const { pool } = await freshPool(t);
  await migrate(pool, [leaseMigration]);
  const first = await withLease(pool, { name: "l", holder: "a", ttlMs: 300 }, async (lease) => {
    const expiry = async () =>
      (
        await query<{ at: Date }>(pool, "select expires_at as at from leases where name = 'l'")
      )[0]!.at.getTime();
    const start = await expiry();
    await waitFor("two renewals", async () => (await expiry()) > start + 150, 5_000);
    assert.deepEqual(await withLease(pool, { name: "l", holder: "b", ttlMs: 300 }, async () => 0), {
      held: false,
      holder: "a",
    });
    await assertLease(pool, lease);
    return lease.epoch;
  });
  assert.deepEqual(first, { held: true, value: 1n });
  const second = await withLease(pool, { name: "l", holder: "b", ttlMs: 300 }, async (lease) => lease.epoch);
  assert.deepEqual(second, { held: true, value: 2n });
  await assert.rejects(assertLease(pool, { name: "l", epoch: 1n }), LeaseLostError);
});

test("work is told when its lease is taken away", async (t) => {
  const { pool } = await freshPool(t);
  await migrate(pool, [leaseMigration]);
  await assert.rejects(
    withLease(pool, { name: "l", holder: "a", ttlMs: 300 }, async ({ signal }) => {
      await pool.query("update leases set epoch = epoch + 1, holder = 'thief'");
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    }),
    LeaseLostError,
  );
});

test("a listener hears notifications again after its connection was cut", async (t) => {
  const { pool, url } = await freshPool(t);
  const stop = new AbortController();
  const heard: (string | null)[] = [];
  const listening = listen(url, "news", (payload) => heard.push(payload), { signal: stop.signal });
  t.after(() => stop.abort());
  await waitFor("the first connection", () => heard.length === 1, 5_000);
  await pool.query(
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'platform-listen'",
  );
  await waitFor("the second connection", () => heard.length === 2, 5_000);
  await pool.query("notify news, 'hello'");
  await waitFor("the notification", () => heard.length === 3, 5_000);
  assert.deepEqual(heard, [null, null, "hello"]);
  stop.abort();
  await listening;
});
