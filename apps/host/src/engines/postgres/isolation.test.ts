import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "pg";
import { assertAllFail, namesInTable } from "@platform/daemon/testing";
import { never, startTestEngine } from "../dedicated/testing.ts";
import type { EngineSpec } from "../engine.ts";
import { attempts, loginOf } from "./attempts.ts";
import { createPostgresEngine } from "./index.ts";

const spec = (version: string): EngineSpec => ({
  ...{ engine: "postgresql", version, cpuMillis: 2000, hostname: "db.tenant.test" },
  ...{ memoryBytes: 64 * 1024 * 1024, storageBytes: 256 * 1024 * 1024 },
});

test("what is tried on a neighbour's PostgreSQL is written down, forty of it or more", () => {
  const names = attempts.map(({ name }) => name);
  assert.ok(names.length >= 40);
  assert.equal(new Set(names).size, names.length);
  assert.deepEqual(namesInTable("isolation.md", "PostgreSQL"), names);
});

test("two tenants' PostgreSQL databases: nothing that either tries on the other succeeds", async (t) => {
  const { engine } = startTestEngine(t, createPostgresEngine);
  const keys = ["database-1", "database-2"] as const;
  await Promise.all([engine.create(keys[0], spec("16"), never), engine.create(keys[1], spec("18"), never)]);
  const both = await Promise.all(keys.map((key) => engine.credentials(key)));
  const sessions = await Promise.all(both.map((credentials) => open(credentials)));
  for (const [at, session] of sessions.entries()) {
    await session.query(`create table kept as select 'secret-${at}'::text as text`);
    await session.query("create table mine (text text)");
    await session.query("create function mine() returns int language sql as 'select 1'");
    await session.query("create function mine_event() returns event_trigger language plpgsql as 'begin end'");
  }

  async function open(credentials: (typeof both)[number]): Promise<Client> {
    const session = new Client(loginOf(credentials));
    session.on("error", () => undefined);
    await session.connect();
    return session;
  }

  for (const [from, to] of [
    [0, 1],
    [1, 0],
  ] as const)
    await t.test(`from ${from + 1} to ${to + 1}`, async () => {
      const [own, other, session] = [both[from]!, both[to]!, sessions[from]!];
      await assertAllFail(
        attempts,
        { session, own, other },
        [`secret-${to}`, other.password, "root:x:"],
        [other.username, other.database],
      );
      const { rows } = await sessions[to]!.query("select text from kept");
      assert.deepEqual(rows, [{ text: `secret-${to}` }]);
      const roles = await sessions[to]!.query("select rolname from pg_roles where rolsuper");
      assert.deepEqual(roles.rows, [{ rolname: "postgres" }]);
    });
  await Promise.all(sessions.map((session) => session.end()));
});
