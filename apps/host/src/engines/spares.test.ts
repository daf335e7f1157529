import assert from "node:assert/strict";
import { lstatSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { HostError, type DatabaseSpec, type HostClient } from "@platform/host-api";
import { processesOfUser } from "./dedicated/measure.ts";
import { startTestHost, type TestHost } from "../testing.ts";

const mib = 1024 * 1024;
const fillMs = 120_000;
const shapes = {
  postgresql: { engine: "postgresql", version: "16", hostname: "db.tenant.test" },
  mysql: { engine: "mysql", version: "10.11", hostname: "db.tenant.test" },
  redis: { engine: "redis", version: "7", hostname: "db.tenant.test" },
} as const;
type Engine = keyof typeof shapes;
const folderOf = { postgresql: "postgres", mysql: "mariadb", redis: "redis" } as const;
const spec = (engine: Engine, changes: Partial<DatabaseSpec> = {}) => ({
  ...{ ...shapes[engine], cpuMillis: 1000, memoryBytes: 128 * mib, storageBytes: 256 * mib },
  ...changes,
});

const settings = (max: number, engines: readonly Engine[] = ["postgresql"]) => ({
  HOST_SPARES_MAX: String(max),
  HOST_SPARES_SHAPES: JSON.stringify(engines.map((engine) => spec(engine))),
  // Whether a busy machine has room for more is not what is asked here.
  HOST_POOL_RESERVE_MIB: "0",
});

async function lane(client: HostClient, engine: Engine, memoryBytes = 128 * mib) {
  const { databases } = await client.pool();
  return databases.find((one) => one.engine === engine && one.memoryBytes === memoryBytes);
}
const filled = (client: HostClient, engine: Engine, count = 1) =>
  waitFor(`${count} spare servers`, async () => ((await lane(client, engine))?.ready ?? 0) >= count, fillMs);

interface Kept {
  readonly key: string;
  readonly home: string;
  readonly phase: string;
  readonly username: string;
  readonly password: string;
  readonly uid: number | null;
}

/** What lies on the disk: the state of each folder, and the links beside them. */
function kept(host: TestHost, engine: Engine = "postgresql") {
  const root = join(host.dataDir, "engines", folderOf[engine], "databases");
  const names = readdirSync(root);
  const isLink = (name: string) => lstatSync(join(root, name)).isSymbolicLink();
  const states = names
    .filter((name) => !isLink(name))
    .map((name) => JSON.parse(readFileSync(join(root, name, "state.json"), "utf8")) as Kept);
  const links = Object.fromEntries(
    names.filter(isLink).map((name) => [name, readlinkSync(join(root, name))]),
  );
  return { states, links };
}

test("a server that waits is handed out as a database of its own, and another one is made", async (t) => {
  const host = await startTestHost(t, settings(1, ["postgresql", "mysql", "redis"]));
  const { engines } = await host.client.doctor();
  for (const engine of Object.keys(shapes) as Engine[]) {
    await t.test(engine, async (t) => {
      const report = engines.find((one) => one.engine === engine);
      if (!report?.usable) return t.skip(report?.why ?? "not usable");
      await filled(host.client, engine);
      const before = kept(host, engine).states.find(({ phase }) => phase === "spare")!;
      assert.deepEqual(
        (await host.client.databases()).filter((one) => one.engine === engine),
        [],
        "it is nobody's database",
      );
      const made = await host.client.putDatabase(`${engine}-1`, spec(engine));
      assert.deepEqual([made.state, made.proof?.ok], ["running", true]);
      const { states, links } = kept(host, engine);
      const state = states.find(({ key }) => key === `${engine}-1`)!;
      assert.deepEqual([state.home, state.phase], [before.home, "ready"]);
      assert.deepEqual(links, { [`${engine}-1`]: before.home });
      const { claims, misses } = (await lane(host.client, engine))!;
      assert.deepEqual([claims, misses], [1, 0]);

      await filled(host.client, engine);
      const next = await host.client.putDatabase(`${engine}-2`, spec(engine));
      assert.notEqual(next.port, made.port);
      const two = await Promise.all(["1", "2"].map((n) => host.client.credentials(`${engine}-${n}`)));
      assert.notEqual(two[0]!.username, two[1]!.username);
      assert.notEqual(two[0]!.password, two[1]!.password);
      if (engine !== "redis") assert.notEqual(two[0]!.database, two[1]!.database);

      await host.client.deleteDatabase(`${engine}-1`);
      await host.client.deleteDatabase(`${engine}-2`);
      await filled(host.client, engine);
      const left = kept(host, engine);
      assert.deepEqual(left.links, {});
      assert.ok(left.states.every(({ phase }) => phase !== "ready"));
      // What was handed out once is never handed out again.
      for (const { password } of left.states) assert.ok(!two.some((one) => one.password === password));
    });
  }
});

test("what waits is sized by what is asked for, and another size is not given in its place", async (t) => {
  const host = await startTestHost(t, settings(2));
  await filled(host.client, "postgresql");
  const other = spec("postgresql", { memoryBytes: 256 * mib });
  const made = await host.client.putDatabase("other-size", other);
  assert.equal(made.state, "running");
  assert.deepEqual(kept(host).links, {}, "the waiting one has another size");
  // Asked for once, so the next one of that size is there before it is asked for.
  await waitFor(
    "one of the other size",
    async () => ((await lane(host.client, "postgresql", 256 * mib))?.ready ?? 0) > 0,
    fillMs,
  );
  await host.client.putDatabase("other-size-2", other);
  assert.ok(kept(host).links["other-size-2"]);
});

test("of many who ask at once no two get the same server", async (t) => {
  const host = await startTestHost(t, settings(2));
  await filled(host.client, "postgresql");
  const keys = ["at-once-1", "at-once-2", "at-once-3", "at-once-4"];
  const made = await Promise.all(keys.map((key) => host.client.putDatabase(key, spec("postgresql"))));
  assert.equal(new Set(made.map(({ port }) => port)).size, keys.length);
  const logins = await Promise.all(keys.map((key) => host.client.credentials(key)));
  assert.equal(new Set(logins.map(({ username }) => username)).size, keys.length);
  assert.ok(made.every(({ state }) => state === "running"));
});

test("killed at any step of handing out, a server is handed out once or not at all", async (t) => {
  const host = await startTestHost(t, settings(1));
  for (const step of ["spare-chosen", "spare-linked", "spare-claimed"]) {
    await t.test(step, async () => {
      await filled(host.client, "postgresql");
      const waiting = kept(host).states.find(({ phase }) => phase === "spare")!;
      await host.armFault(`host.postgresql.${step}`);
      await assert.rejects(host.client.putDatabase(`first-${step}`, spec("postgresql")), HostError);
      await host.kill("SIGKILL");
      await host.start();
      // Somebody else asks before the one whose request was cut off asks again.
      const other = await host.client.putDatabase(`second-${step}`, spec("postgresql"));
      const first = await host.client.putDatabase(`first-${step}`, spec("postgresql"));
      assert.deepEqual([first.state, other.state], ["running", "running"]);
      assert.notEqual(first.port, other.port);
      const { states } = kept(host);
      assert.equal(new Set(states.map(({ home }) => home)).size, states.length);
      const owner = states.find(({ home }) => home === waiting.home);
      assert.equal(owner?.key, step === "spare-claimed" ? `first-${step}` : `second-${step}`);
      for (const key of [`first-${step}`, `second-${step}`]) await host.client.deleteDatabase(key);
    });
  }
});

test("a spare server that died is not handed out, and none outlives a daemon that stops in order", async (t) => {
  const host = await startTestHost(t, settings(1));
  await filled(host.client, "postgresql");
  const dead = kept(host).states.find(({ phase }) => phase === "spare")!;
  if (dead.uid === null) return t.skip("only root gives servers uids of their own");
  for (const pid of processesOfUser(dead.uid)) process.kill(pid, "SIGKILL");
  const made = await host.client.putDatabase("made-new", spec("postgresql"));
  assert.equal(made.state, "running");
  const { states } = kept(host);
  assert.notEqual(states.find(({ key }) => key === "made-new")?.home, dead.home);
  await host.client.deleteDatabase("made-new");
  await filled(host.client, "postgresql");
  const { uid } = kept(host).states.find(({ phase }) => phase === "spare")!;
  await host.kill("SIGTERM");
  assert.deepEqual(kept(host).states, []);
  assert.deepEqual(processesOfUser(uid!), []);
  await host.start();
});

test("a database whose state is damaged is not made anew, though its folder has another name", async (t) => {
  const host = await startTestHost(t, settings(1));
  await filled(host.client, "postgresql");
  await host.client.putDatabase("damaged", spec("postgresql"));
  const file = join(host.dataDir, "engines/postgres/databases/damaged/state.json");
  const text = readFileSync(file, "utf8");
  await host.kill("SIGTERM");
  writeFileSync(file, text.slice(0, 20));
  await host.start();
  await assert.rejects(host.client.putDatabase("damaged", spec("postgresql")), { code: "INTERNAL" });
  await host.kill("SIGTERM");
  writeFileSync(file, text);
  await host.start();
  assert.equal((await host.client.putDatabase("damaged", spec("postgresql"))).state, "running");
});
