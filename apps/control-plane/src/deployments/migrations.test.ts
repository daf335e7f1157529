import assert from "node:assert/strict";
import { test } from "node:test";
import { ask, until } from "../testing-databases.ts";
import { insideOf, startBoxes, whyNoBoxes } from "../testing-boxes.ts";
import { BehavingApp, type Json } from "./testing-app.ts";

const skip = whyNoBoxes() ?? false;
const folder = "migrations";

test("a promote runs the migrations that its release recorded", { skip }, async (t) => {
  const boxes = await startBoxes(t);
  const { must, api } = boxes;
  const { id: shop } = await must<{ id: string }>("POST", "/databases", {
    ...{ name: "shop", memory_mb: 128, storage_mb: 256 },
  });
  await until(boxes, `/databases/${shop}`, "the database to run", (row) => row["state"] === "running");
  const app = await BehavingApp.start(boxes, "shop");
  await must("POST", `/sandboxes/${app.sandboxId}/database`, { database_id: shop });
  const write = (sandbox: string, name: string, sql: string) =>
    must("POST", `/sandboxes/${sandbox}/files`, {
      path: `/workspace/${folder}/${name}`,
      content: Buffer.from(sql).toString("base64"),
    });
  const ran = async () =>
    (await ask(boxes, shop, "select name from recorded_migrations order by name")).map((row) => row["name"]);
  const publish = (more: Json = {}) => app.publish("good", { migrations_path: folder, ...more });
  const serving = async () => (await must<Json>("GET", app.path))["active_release_id"];

  await t.test("the first time all of them, in order, with what they depend on", async () => {
    await write(
      app.sandboxId,
      "001_orders.sql",
      "create table orders (id int primary key); insert into orders values (1);",
    );
    await write(app.sandboxId, "002_note.sql", "alter table orders add column note text default 'none';");
    await publish();
    assert.deepEqual(await ran(), ["001_orders.sql", "002_note.sql"]);
    assert.deepEqual(await ask(boxes, shop, "select * from orders"), [{ id: 1, note: "none" }]);
  });

  await t.test(
    "from a fork: its migrations reach production, and nothing else of its database does",
    async () => {
      const fork = insideOf<Json>(
        await api("POST", `/sandboxes/${app.sandboxId}/fork`, { database: "branch" }),
        "fork",
      );
      const id = String(fork["id"]);
      await boxes.until(id, "the fork", (row) => row["ready"] === true);
      const branch = (await must<Json[]>("GET", "/databases")).find((row) => row["owner_sandbox_id"] === id)!;
      await ask(boxes, String(branch["id"]), "delete from orders; create table only_here (n int)");
      await write(id, "003_total.sql", "alter table orders add column total int not null default 0;");
      const published = await must<{ release: Json }>("POST", `/sandboxes/${id}/publish`, {
        ...{ deployment_id: app.id, deployment_type: "dynamic", install_command: false },
        ...{ run_command: "node server.mjs", migrations_path: folder },
      });
      assert.equal(await serving(), published.release["id"]);
      assert.deepEqual(await ran(), ["001_orders.sql", "002_note.sql", "003_total.sql"]);
      assert.deepEqual(await ask(boxes, shop, "select * from orders"), [{ id: 1, note: "none", total: 0 }]);
      assert.deepEqual(await ask(boxes, shop, "select to_regclass('only_here') as it"), [{ it: null }]);
      await must("DELETE", `/sandboxes/${id}`);
      await write(
        app.sandboxId,
        "003_total.sql",
        "alter table orders add column total int not null default 0;",
      );
    },
  );

  const refused = async (name: string, sql: string) => {
    const before = await serving();
    await write(app.sandboxId, name, sql);
    const answer = await api("POST", `/sandboxes/${app.sandboxId}/publish`, {
      ...{ deployment_id: app.id, deployment_type: "dynamic", install_command: false },
      ...{ run_command: "node server.mjs", migrations_path: folder },
    });
    assert.equal(answer.status, 409, answer.text);
    assert.equal(answer.at("error", "code"), "MIGRATION_FAILED");
    assert.equal(await serving(), before, "what serves goes on serving");
    return answer;
  };

  await t.test(
    "one that fails leaves nothing of itself, says where it failed, and traffic where it was",
    async () => {
      const answer = await refused(
        "004_bad.sql",
        "create table half (n int);\ninsert into nowhere values (1);",
      );
      assert.equal(answer.at("error", "details", "migration"), "004_bad.sql");
      assert.equal(answer.at("error", "details", "sql_state"), "42P01");
      assert.equal(answer.at<number>("error", "details", "position"), 40);
      assert.deepEqual(await ask(boxes, shop, "select to_regclass('half') as it"), [{ it: null }]);
      assert.equal((await ran()).length, 3);
    },
  );

  await t.test(
    "one that ends its transaction is refused, and so is one that was changed after it ran",
    async () => {
      const ended = await refused("004_bad.sql", "create table sneaky (n int); commit;");
      assert.equal(ended.at("error", "details", "reason"), "ended_transaction");
      await write(app.sandboxId, "004_bad.sql", "select 1;");
      const changed = await refused("002_note.sql", "drop table orders;");
      assert.equal(changed.at("error", "details", "reason"), "changed");
      assert.equal(changed.at("error", "details", "migration"), "002_note.sql");
      await write(app.sandboxId, "002_note.sql", "alter table orders add column note text default 'none';");
    },
  );

  await t.test("a control plane that dies after them runs none of them twice", async () => {
    await write(app.sandboxId, "005_once.sql", "insert into orders select max(id) + 1 from orders;");
    const { releaseId } = await publish({ promote: false });
    await boxes.armFault("control-plane.deployment.migrated");
    await app.tryPromote({ releaseId, name: "", versionId: "" }).catch(() => undefined); // It was killed.
    await boxes.restartControlPlane();
    await until(boxes, app.path, "the promote to be over", (row) => row["active_release_id"] === releaseId);
    assert.deepEqual(await ask(boxes, shop, "select count(*)::int as n from orders"), [{ n: 2 }]);
    assert.equal((await ran()).length, 5);
  });

  await t.test(
    "a rollback un-runs nothing, and says which migrations the earlier release does not know",
    async () => {
      await must("POST", `${app.path}/rollback`, {});
      assert.equal((await ran()).length, 5);
      const [latest] = await must<Json[]>("GET", `${app.path}/promotions`);
      assert.deepEqual(latest!["schema_newer"], ["004_bad.sql", "005_once.sql"]);
    },
  );

  await t.test("a folder without migrations is refused at the build", async () => {
    const answer = await api("POST", `/sandboxes/${app.sandboxId}/publish`, {
      ...{ deployment_id: app.id, deployment_type: "dynamic", install_command: false },
      ...{ run_command: "node server.mjs", migrations_path: "nowhere" },
    });
    assert.deepEqual([answer.status, answer.at("error", "code")], [422, "SOURCE_FILE_MISSING"]);
  });
});
