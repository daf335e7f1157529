import assert from "node:assert/strict";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { startBoxes, whyNoBoxes, type Boxes } from "../testing-boxes.ts";

type Row = Record<string, unknown>;
const skip = whyNoBoxes() ?? false;

async function available(boxes: Boxes, body: Row): Promise<Row> {
  const { id } = await boxes.must("POST", "/databases", body);
  return waitFor(
    "the database to be available",
    async () => {
      const row = await boxes.must("GET", `/databases/${String(id)}`);
      assert.notEqual(row["state"], "failed", JSON.stringify(row));
      return row["state"] === "running" && row;
    },
    120_000,
  );
}

test("databases of all engines", { skip }, async (t) => {
  const boxes = await startBoxes(t);
  const { must, api } = boxes;
  const usable = new Set(
    (await boxes.host.doctor()).engines.filter((one) => one.usable).map(({ engine }) => engine),
  );

  await t.test("each is made, proved by a login, and says what serves it", async () => {
    const expected = {
      postgresql: [/^PostgreSQL 16\./, "postgresql:"],
      mysql: [/^MySQL-compatible \(MariaDB 10\.11\.\d+\)$/, "mysql:"],
      redis: [/^Redis 7\./, "rediss:"],
    } as const;
    for (const [engine, [product, scheme]] of Object.entries(expected)) {
      if (!usable.has(engine as "redis")) {
        const answer = await api("POST", "/databases", { name: `no-${engine}`, engine });
        assert.deepEqual([answer.status, answer.at("error", "code")], [503, "ENGINE_UNAVAILABLE"]);
        assert.match(String(answer.at("error", "message")), /apt-get install/);
        continue;
      }
      const row = await available(boxes, { name: `all-${engine}`, engine, memory_mb: 256, storage_mb: 512 });
      assert.match(String((row["engine_details"] as Row)["product"]), product);
      assert.equal((row["connection_test"] as Row)["status"], "ok");
      const credentials = await must("GET", `/databases/${String(row["id"])}/credentials`);
      assert.equal(new URL(String(credentials["url"])).protocol, scheme);
      await must("DELETE", `/databases/${String(row["id"])}`);
    }
  });

  await t.test("a version or size that cannot be is refused before anything is made", async () => {
    const version = await api("POST", "/databases", { name: "old", engine: "mysql", engine_version: "5.7" });
    assert.deepEqual([version.status, version.at("error", "code")], [422, "ENGINE_VERSION_UNAVAILABLE"]);
    assert.match(String(version.at("error", "message")), /MariaDB 10\.11/);
    const size = await api("POST", "/databases", { name: "small", engine: "mysql", memory_mb: 64 });
    assert.equal(size.status, 422);
  });

  await t.test(
    "a rotation gives the linked sandbox new credentials before the old ones are refused",
    async () => {
      const database = await available(boxes, { name: "rotating", memory_mb: 256, storage_mb: 512 });
      const id = String(database["id"]);
      const sandbox = await boxes.sandbox();
      await must("POST", `/sandboxes/${sandbox}/database`, { database_id: id });
      await must("POST", `/sandboxes/${sandbox}/services`, {
        name: "seen",
        command: 'sh -c "echo $DATABASE_URL > /workspace/seen; exec sleep 1000"',
      });
      const seenBy = async () =>
        String(
          (await must("POST", `/sandboxes/${sandbox}/exec`, { command: "cat /workspace/seen" }))["stdout"],
        ).trim();
      const old = await must("GET", `/databases/${id}/credentials`);
      await waitFor("the service to have the URL", async () => (await seenBy()) === old["url"], 30_000);

      const fresh = await must("POST", `/databases/${id}/rotate`, {});
      assert.notEqual(fresh["password"], old["password"]);
      await waitFor("the service to have the new URL", async () => (await seenBy()) === fresh["url"], 30_000);
      await waitFor(
        "the rotation to be over",
        async () => (await must("GET", `/databases/${id}`))["rotation"] === null,
        60_000,
      );
      const kept = await boxes.host.databases();
      assert.ok(kept.every(({ rotating }) => !rotating));
    },
  );

  await t.test(
    "with an overlap both hold, and a control plane that is killed in the middle ends it",
    async () => {
      const database = await available(boxes, { name: "killed", memory_mb: 256, storage_mb: 512 });
      const id = String(database["id"]);
      await must("GET", `/databases/${id}/credentials`);
      await boxes.armFault("control-plane.database.rotation-handed-over");
      await api("POST", `/databases/${id}/rotate`, {}).catch(() => undefined); // Its server was killed.
      await boxes.restartControlPlane();
      await waitFor(
        "the rotation to be over",
        async () => {
          const row = await must("GET", `/databases/${id}`);
          const [hosted] = (await boxes.host.databases()).filter(({ key }) => key === `db-${id}`);
          return row["rotation"] === null && hosted?.rotating === false;
        },
        60_000,
      );
    },
  );

  await t.test("a sandbox gets the pooled URL too, and its port leads to the pooler", async (t) => {
    const database = await available(boxes, { name: "pooled", memory_mb: 256, storage_mb: 512 });
    const id = String(database["id"]);
    const credentials = await must("GET", `/databases/${id}/credentials`);
    const pooling = (await must("GET", `/databases/${id}`))["pooling"] as Row;
    if (pooling["state"] === "unavailable") {
      assert.equal(credentials["pooled_url"], undefined);
      assert.match(String(pooling["last_error"]), /apt-get install pgbouncer/);
      return t.skip(String(pooling["last_error"]));
    }
    assert.deepEqual([pooling["state"], pooling["mode"]], ["running", "transaction"]);
    const sandbox = await boxes.sandbox();
    await must("POST", `/sandboxes/${sandbox}/database`, { database_id: id });
    const run = async (command: string) =>
      String((await must("POST", `/sandboxes/${sandbox}/exec`, { command }))["stdout"]).trim();
    assert.equal(await run("echo $DATABASE_URL_POOLED"), credentials["pooled_url"]);
    // A server of PostgreSQL answers the wish for encryption with an S; a way that leads nowhere says nothing.
    const ask = `const { hostname, port } = new URL(process.env.DATABASE_URL_POOLED);
      const socket = require("net").connect(port, hostname, () => socket.write(Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])));
      socket.once("data", (answer) => { console.log(String(answer)); socket.destroy(); });`;
    assert.equal(await run(`node -e '${ask}'`), "S");
  });

  await t.test("a server that is away is told with its cause, and so is its return", async () => {
    const database = await available(boxes, { name: "away", memory_mb: 256, storage_mb: 512 });
    const id = String(database["id"]);
    await boxes.host.databaseAction(`db-${id}`, "stop");
    // What stopped it was not asked to by the control plane, which starts it again.
    await waitFor(
      "the database to be back",
      async () => {
        const row = await must("GET", `/databases/${id}`);
        return row["state"] === "running" && (await boxes.host.database(`db-${id}`))?.state === "running";
      },
      90_000,
    );
  });
});
