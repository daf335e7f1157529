import assert from "node:assert/strict";
import { test } from "node:test";
import { assertAllFail, namesInTable } from "@platform/daemon/testing";
import { never, startTestEngine } from "../dedicated/testing.ts";
import type { EngineSpec } from "../engine.ts";
import { attempts, connectWith } from "./attempts.ts";
import { createMariadbEngine } from "./index.ts";
import { rowsOf } from "./login.ts";
import { report } from "./programs.ts";

const mib = 1024 * 1024;
const { usable, why } = await report();
const spec: EngineSpec = {
  ...{ engine: "mysql", version: "10.11", cpuMillis: 2000, hostname: "localhost" },
  ...{ memoryBytes: 256 * mib, storageBytes: 256 * mib },
};

test("what is tried on a neighbour's MySQL is written down, forty of it or more", () => {
  const names = attempts.map(({ name }) => name);
  assert.ok(names.length >= 40);
  assert.equal(new Set(names).size, names.length);
  assert.deepEqual(namesInTable("isolation.md", "MySQL (MariaDB)"), names);
});

test(
  "two tenants' MySQL databases: nothing that either tries on the other succeeds",
  { skip: usable ? false : (why ?? true) },
  async (t) => {
    const { engine } = startTestEngine(t, createMariadbEngine);
    const keys = ["database-1", "database-2"] as const;
    await Promise.all(keys.map((key) => engine.create(key, spec, never)));
    const both = await Promise.all(keys.map((key) => engine.credentials(key)));
    const sessions = await Promise.all(both.map(connectWith));
    t.after(() => sessions.forEach((session) => session.destroy()));
    for (const [at, session] of sessions.entries()) {
      await session.query(`create table kept as select 'secret-${at}' as text`);
      await session.query("create table mine (text text)");
    }
    for (const [from, to] of [
      [0, 1],
      [1, 0],
    ] as const)
      await t.test(`from ${from + 1} to ${to + 1}`, async () => {
        const [own, other, session] = [both[from]!, both[to]!, sessions[from]!];
        const secrets = [`secret-${to}`, other.password, "root:x:"];
        await assertAllFail(attempts, { session, own, other }, secrets, [other.username, other.database]);
        assert.deepEqual(await rowsOf(sessions[to]!, "select text from kept"), [{ text: `secret-${to}` }]);
      });
  },
);
