import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { startBoxes, whyNoBoxes, type Boxes } from "../testing-boxes.ts";
import { ask, until } from "../testing-databases.ts";

type Row = Record<string, unknown>;
/** `npm start` and `npm test` put it there; another place is named in POSTGRES_CLIENT_DIR. */
const folder =
  process.env["POSTGRES_CLIENT_DIR"] ??
  join(import.meta.dirname, "../../../../.toolchain/postgres-client/bin");
const hasDump = existsSync(join(folder, "pg_dump"));
const skip = whyNoBoxes() ?? (hasDump ? false : "there is no pg_dump as new as the servers");

const upgradeOf = (row: Row) => row["upgrade"] as Row | null;
const ended = (boxes: Boxes, id: string, state: string) =>
  until(
    boxes,
    `/databases/${id}`,
    `the upgrade to be ${state}`,
    (row) => upgradeOf(row)?.["state"] === state && row["state"] === "running",
  );

test("a database changes its major version, and goes back", { skip }, async (t) => {
  const boxes = await startBoxes(t);
  const { must, api } = boxes;
  const { id } = await must<{ id: string }>("POST", "/databases", {
    ...{ name: "clinic", memory_mb: 128, storage_mb: 256 },
  });
  const path = `/databases/${id}`;
  await until(boxes, path, "the database to run", (row) => row["state"] === "running");
  await ask(boxes, id, "create table visits as select n from generate_series(1, 1000) n");
  const before = await must<Row>("GET", `${path}/credentials`);
  const backup = await must<Row>("POST", `${path}/backups`, {});
  await until(boxes, `${path}/backups`, "the backup", (rows) =>
    (rows as unknown as Row[]).every((row) => row["state"] === "completed"),
  );
  const count = async () => JSON.stringify(await ask(boxes, id, "select count(*)::int as n from visits"));

  await t.test("what cannot be is refused before anything happens", async () => {
    for (const engine_version of ["16", "15", "99", "abc"]) {
      const refused = await api("POST", `${path}/upgrade`, { engine_version });
      assert.deepEqual(
        [refused.status, refused.at("error", "code")],
        [422, "ENGINE_VERSION_UNAVAILABLE"],
        engine_version,
      );
    }
    const nothing = await api("POST", `${path}/upgrade/undo`, {});
    assert.deepEqual([nothing.status, nothing.at("error", "code")], [409, "CONFLICT"]);
    await must("PUT", `${path}/backup-policy`, { point_in_time: true });
    const kept = await api("POST", `${path}/upgrade`, { engine_version: "18" });
    assert.deepEqual([kept.status, kept.at("error", "details", "reason")], [409, "point_in_time"]);
    await must("PUT", `${path}/backup-policy`, { enabled: false });
  });

  await t.test("the newer server has address, credentials and rows of the earlier one", async () => {
    await until(boxes, `${path}/backups`, "its backups to end", (rows) =>
      (rows as unknown as Row[]).every((row) => !["pending", "running"].includes(String(row["state"]))),
    );
    const asked = await must<Row>("POST", `${path}/upgrade`, { engine_version: "18" });
    assert.equal(upgradeOf(asked)?.["state"], "upgrading");
    const again = await api("POST", `${path}/upgrade`, { engine_version: "18" });
    assert.equal(again.status, 409);
    const row = await ended(boxes, id, "done");
    assert.deepEqual([row["engine_version"], upgradeOf(row)?.["from"]], ["18", "16"]);
    assert.match(String(row["exact_version"]), /^18\./);
    assert.ok(upgradeOf(row)?.["way_back_until"]);
    const after = await must<Row>("GET", `${path}/credentials`);
    assert.equal(after["url"], before["url"]);
    assert.match(await count(), /1000/);
    const keys = (await boxes.host.databases()).map(({ key }) => key);
    // A backup may be restored as a test at this moment.
    assert.deepEqual(
      keys.filter((key) => !key.startsWith("drill-")),
      [`db-${id}`],
    );
  });

  await t.test("a backup of the earlier version is restored by a server of that version", async () => {
    const made = await must<Row>("POST", `${path}/restores`, { backup_id: backup["id"], name: "old" });
    const old = `/databases/${String(made["database_id"])}`;
    const row = await until(boxes, old, "the restored one", (seen) => seen["state"] === "running");
    assert.equal(row["engine_version"], "16");
    await must("DELETE", old);
  });

  await t.test("the way back leads to what was, until it is given up", async () => {
    await ask(boxes, id, "insert into visits values (2000)");
    await must("POST", `${path}/upgrade/undo`, {});
    const row = await ended(boxes, id, "went_back");
    assert.equal(row["engine_version"], "16");
    assert.match(await count(), /1000/);
    await must("POST", `${path}/upgrade`, { engine_version: "17" });
    await ended(boxes, id, "done");
    const given = await must<Row>("DELETE", `${path}/upgrade`);
    assert.equal(upgradeOf(given)?.["way_back_until"], null);
    assert.equal((await api("POST", `${path}/upgrade/undo`, {})).status, 409);
    assert.match(await count(), /1000/);
  });

  await t.test("what cannot be carried is told, and the database goes on as it was", async () => {
    await ask(
      boxes,
      id,
      "create function once(int) returns int language plpgsql immutable as 'begin return $1; end'",
    );
    await ask(boxes, id, "create index on visits (once(n))");
    await ask(
      boxes,
      id,
      "create or replace function once(int) returns int language plpgsql immutable as 'begin raise exception ''no more''; end'",
    );
    await must("POST", `${path}/upgrade`, { engine_version: "18" });
    const row = await ended(boxes, id, "failed");
    assert.deepEqual([row["engine_version"], upgradeOf(row)?.["reason"]], ["17", "upgrade_failed"]);
    assert.match(String(upgradeOf(row)?.["last_error"]), /no more/);
    assert.match(await count(), /1000/);
    await must("DELETE", path);
    assert.deepEqual(await boxes.host.databases(), []);
  });
});
