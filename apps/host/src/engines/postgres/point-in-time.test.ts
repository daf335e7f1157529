import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { encodeFile, encodeFrame, readFrames } from "@platform/host-api";
import { runningServer } from "@platform/postgres";
import { Manifest } from "../dedicated/manifest.ts";
import { foldersOf } from "../dedicated/database-state.ts";
import { framesOf, hasDisk, never, startTestEngine } from "../dedicated/testing.ts";
import { createPostgresEngine } from "./index.ts";
import { withLogin } from "./login.ts";

const spec = {
  engine: "postgresql" as const,
  version: "16",
  cpuMillis: 2000,
  memoryBytes: 128 * 1024 * 1024,
  storageBytes: 1024 * 1024 * 1024,
  hostname: "db.tenant.test",
};

test("the log of a server leads a copy to a moment", async (t) => {
  const { engine, dataDir } = startTestEngine(t, createPostgresEngine);
  await engine.create("database-1", spec, never);
  const ask = async (key: string, sql: string) => {
    const { username, password, database, caCertificate, host, port } = await engine.credentials(key);
    const login = { hostname: host, port, username, password, database, caCertificate: caCertificate! };
    return withLogin(login, async (client) => (await client.query<Record<string, unknown>>(sql)).rows);
  };
  const log = await engine.log("database-1");
  const kept = new Map<string, Buffer>();
  const take = async () => {
    const stock = await log.take();
    for (const name of stock.segments) kept.set(name, await log.read(name));
    await log.forget(stock.segments);
    return stock;
  };
  const restoreAt = async (base: Buffer, key: string, at: string, without?: string) => {
    const whole = async function* () {
      yield base.subarray(0, base.length - 5);
      for (const [name, content] of kept) if (name !== without) yield encodeFile(name, content);
      yield encodeFrame("end");
    };
    const frames = readFrames(whole());
    const { value } = await frames.next();
    const manifest = Manifest.parse(JSON.parse(value!.content.toString("utf8")));
    return engine.restore(key, spec, manifest, frames, at, never);
  };
  const now = async () =>
    ((await ask("database-1", "select clock_timestamp() as now"))[0]!["now"] as Date).toISOString();

  const first = await take();
  const base = await framesOf(engine, "database-1");
  await ask("database-1", "create table kept as select n from generate_series(1, 1000) n");
  const before = await now();
  await waitFor("the clock to go on", async () => (await now()) > before, 1000, 2);
  await ask("database-1", "delete from kept where n > 10");
  const after = await take();

  await t.test("what is listed follows each other without a hole, and is given once", async () => {
    assert.equal([...kept.keys()].sort()[first.segments.length], first.current);
    assert.ok(after.through > before);
    assert.deepEqual((await log.take()).segments, []);
    await assert.rejects(log.read("../../state.json"), { code: "NOT_FOUND" });
    assert.equal(after.hasGap, false);
  });

  await t.test("a moment before a mistake has what was there, and the original is as it was", async () => {
    await restoreAt(base, "restored-1", before);
    assert.deepEqual(await ask("restored-1", "select count(*)::int as count from kept"), [{ count: 1000 }]);
    assert.deepEqual(await ask("database-1", "select count(*)::int as count from kept"), [{ count: 10 }]);
    await engine.destroy("restored-1");
  });

  await t.test("a moment after the last change has everything, though nothing follows it", async () => {
    await restoreAt(base, "restored-2", after.through);
    assert.deepEqual(await ask("restored-2", "select count(*)::int as count from kept"), [{ count: 10 }]);
    await engine.destroy("restored-2");
  });

  await t.test("a server that is killed gives away what it acknowledged", async () => {
    await ask("database-1", "insert into kept select n from generate_series(5001, 5100) n");
    const folders = foldersOf(join(dataDir, "databases"), "database-1", hasDisk(dataDir, "database-1"));
    process.kill(runningServer(folders.data)!.pid, "SIGKILL");
    await waitFor(
      "the server to be back",
      () =>
        ask("database-1", "select 1").then(
          () => true,
          () => false as const,
        ),
      30_000,
    );
    const last = await take();
    await restoreAt(base, "restored-3", last.through);
    assert.deepEqual(await ask("restored-3", "select count(*)::int as count from kept"), [{ count: 110 }]);
    await engine.destroy("restored-3");
  });

  await t.test("once it is stopped nothing is kept", async () => {
    await log.stop();
    await ask("database-1", "insert into kept values (1)");
    assert.equal((await engine.find("database-1"))?.state, "running");
    const again = await log.take();
    assert.ok(again.segments.length <= 1);
  });
});
