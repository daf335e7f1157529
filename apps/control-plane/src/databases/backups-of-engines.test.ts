import assert from "node:assert/strict";
import { test } from "node:test";
import { Redis } from "ioredis";
import { createConnection } from "mysql2/promise";
import { startBoxes, whyNoBoxes, type Boxes } from "../testing-boxes.ts";
import { ask, until } from "../testing-databases.ts";

type Row = Record<string, unknown>;
const daysMs = 24 * 3_600_000;

async function credentialsOf(boxes: Boxes, id: string) {
  const found = await boxes.must("GET", `/databases/${id}/credentials`);
  const [user, password] = [String(found["user"]), String(found["password"])];
  const tls = { ca: String((found["ssl"] as Row)["ca_certificate"]), servername: String(found["host"]) };
  return { host: "127.0.0.1", port: Number(found["port"]), user, password, found, tls };
}

/** Sends statements as a client of the engine; the answer to the last one. */
const clients: Record<string, (boxes: Boxes, id: string, statements: readonly string[]) => Promise<unknown>> =
  {
    mysql: async (boxes, id, statements) => {
      const { found, tls, ...login } = await credentialsOf(boxes, id);
      const ssl = { ca: tls.ca, servername: tls.servername, verifyIdentity: false };
      const client = await createConnection({ ...login, database: String(found["database"]), ssl });
      try {
        let rows: unknown;
        for (const statement of statements) [rows] = await client.query(statement);
        return Object.values((rows as Row[])[0] ?? {})[0];
      } finally {
        await client.end();
      }
    },
    redis: async (boxes, id, statements) => {
      const { found: _found, user: username, ...login } = await credentialsOf(boxes, id);
      const client = new Redis({ ...login, username, lazyConnect: true, maxRetriesPerRequest: 1 });
      await client.connect();
      try {
        let answer: unknown;
        for (const statement of statements) {
          const [name, ...words] = statement.split(" ");
          answer = await client.call(name!, ...words);
        }
        return answer;
      } finally {
        client.disconnect();
      }
    },
  };

const engines = [
  {
    engine: "mysql",
    write: ["create table kept (n int)", "insert into kept values (1), (2), (3)", "select 1"],
    ruin: ["drop table kept", "select 1"],
    read: ["select cast(sum(n) as char) as sum from kept"],
    expected: "6",
  },
  { engine: "redis", write: ["SET kept word"], ruin: ["DEL kept"], read: ["GET kept"], expected: "word" },
];

test("backups of other engines, scheduled and last ones", { skip: whyNoBoxes() ?? false }, async (t) => {
  const boxes = await startBoxes(t);
  const { must, api } = boxes;
  const created = async (engine: string) => {
    const wanted = { name: `kept-${engine}`, engine, memory_mb: 256, storage_mb: 256 };
    const answer = await api("POST", "/databases", wanted);
    if (answer.status === 503) return null;
    const { id } = (JSON.parse(answer.text) as { data: { id: string } }).data;
    await until(boxes, `/databases/${id}`, `${engine} to run`, (row) => row["state"] === "running");
    return id;
  };
  const proved = async (id: string, isIt: (one: Row) => boolean): Promise<Row> => {
    let found: Row | undefined;
    await until(boxes, `/databases/${id}/backups`, "the backup to be proved", (all) => {
      found = (all as unknown as Row[]).find(isIt);
      return found !== undefined && found["restored_ok_at"] !== null;
    });
    return found!;
  };
  const restored = async (id: string, backup_id: unknown): Promise<string> => {
    const made = await must("POST", `/databases/${id}/restores`, { backup_id });
    const copy = String(made["database_id"]);
    await until(boxes, `/databases/${copy}`, "the copy to run", (row) => row["state"] === "running");
    return copy;
  };

  for (const { engine, write, ruin, read, expected } of engines) {
    await t.test(`${engine}: what was backed up comes back, the original stays as it is`, async (t) => {
      const id = await created(engine);
      if (id === null) return t.skip(`${engine} is not installed`);
      const client = clients[engine]!;
      await client(boxes, id, write);
      const made = await must("POST", `/databases/${id}/backups`, {});
      await proved(id, (one) => one["id"] === made["id"]);
      await client(boxes, id, ruin);
      const copy = await restored(id, made["id"]);
      assert.equal(await client(boxes, copy, read), expected);
      await client(boxes, copy, write.slice(-1));
      const before = await client(boxes, id, read).catch(() => null);
      assert.notEqual(before, expected);
      for (const one of [copy, id]) await must("DELETE", `/databases/${one}`);
    });
  }

  await t.test("a policy makes backups by itself, and a last one that outlives the database", async () => {
    const id = (await created("postgresql"))!;
    await ask(boxes, id, "create table kept as select n from generate_series(1, 100) n");
    await must("PUT", `/databases/${id}/backup-policy`, { every_hours: 1, keep: 2, final_days: 3 });
    const scheduled = await proved(id, (one) => one["kind"] === "scheduled");
    assert.equal(scheduled["state"], "completed");
    await ask(boxes, id, "insert into kept values (1000)");
    await must("DELETE", `/databases/${id}`);

    assert.equal((await api("GET", `/databases/${id}`)).status, 404);
    assert.equal((await boxes.host.database(`db-${id}`)) ?? null, null);
    const left = await must<Row[]>("GET", "/databases?state=deleted");
    assert.ok(left.some((row) => row["id"] === id && row["state"] === "deleted"));
    // Those that were kept for ever go with the database, not before its last one.
    for (const one of await must<Row[]>("GET", `/databases/${id}/backups`)) assert.ok(one["expires_at"]);
    const final = await proved(id, (one) => one["kind"] === "final");
    const days = (Date.parse(String(final["expires_at"])) - Date.now()) / daysMs;
    assert.ok(days > 2.9 && days <= 3, `${days} days`);
    const copy = await restored(id, final["id"]);
    const count = "select count(*)::int as count, max(n) as most from kept";
    assert.deepEqual(await ask(boxes, copy, count), [{ count: 101, most: 1000 }]);
    // It is a database like any other, and the deleted one stays deleted.
    assert.equal((await api("GET", `/databases/${id}`)).status, 404);
    await must("DELETE", `/databases/${copy}`);
  });

  await t.test("a database that left no backup is gone for every call", async () => {
    const id = (await created("postgresql"))!;
    await must("DELETE", `/databases/${id}`);
    assert.equal((await api("GET", `/databases/${id}/backups`)).status, 404);
    const all = await must<Row[]>("GET", "/databases?state=deleted");
    assert.ok(!all.some((row) => row["id"] === id));
  });
});
