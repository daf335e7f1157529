import assert from "node:assert/strict";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { startBoxes, whyNoBoxes } from "../testing-boxes.ts";
import { chainFrom, nextSegment } from "./point-in-time.ts";
import { ask, filesBelow, until } from "../testing-databases.ts";

type Row = Record<string, unknown>;

test("segments of a log are numbered on, and a hole ends a chain", () => {
  assert.equal(nextSegment("0000000100000000000000FF"), "000000010000000100000000");
  assert.equal(nextSegment("00000002000000000000000A"), "00000002000000000000000B");
  const through = new Date();
  const named = (...names: string[]) =>
    names.map((end) => ({ name: `0000000100000000000000${end}`, through }));
  const names = (from: string, ...there: string[]) =>
    chainFrom(`0000000100000000000000${from}`, named(...there)).map(({ name }) => name.slice(-2));
  assert.deepEqual(names("03", "03", "04", "05"), ["03", "04", "05"]);
  assert.deepEqual(names("03", "03", "05"), ["03"]);
  assert.deepEqual(names("03", "04", "05"), []);
});

test("any moment of a database can be restored", { skip: whyNoBoxes() ?? false }, async (t) => {
  const boxes = await startBoxes(t);
  const { must, api } = boxes;
  const make = await must("POST", "/databases", { name: "kept", memory_mb: 128, storage_mb: 256 });
  const id = String(make["id"]);
  const at = `/databases/${id}`;
  await until(boxes, at, "the database to run", (row) => row["state"] === "running");
  const now = async () =>
    ((await ask(boxes, id, "select clock_timestamp() as now"))[0]!["now"] as Date).toISOString();
  const stored = (moment: string) =>
    until(boxes, `${at}/point-in-time`, "the log to be stored", (row) => String(row["latest"]) >= moment);
  const restored = async (target_time: string, state: string): Promise<Row> => {
    const { database_id: copy } = await must("POST", `${at}/restores`, { target_time });
    return until(boxes, `/databases/${String(copy)}`, `the copy to be ${state}`, (row) => {
      return row["state"] === state;
    });
  };
  const count = "select count(*)::int as count from kept";

  await t.test("without being asked for it is not there, and says what to do", async () => {
    const refused = await api("POST", `${at}/restores`, { target_time: new Date().toISOString() });
    assert.deepEqual([refused.status, refused.at("error", "code")], [409, "RESTORE_POINT_UNAVAILABLE"]);
    assert.match(String(refused.at("error", "message")), /point_in_time/);
    const both = await api("POST", `${at}/restores`, {});
    assert.equal(both.status, 422);
    assert.equal((await must("GET", `${at}/point-in-time`))["enabled"], false);
  });

  await must("PUT", `${at}/backup-policy`, { point_in_time: true, final_days: 0 });
  await until(boxes, `${at}/point-in-time`, "a first base", (row) => row["earliest"] !== null);
  await ask(boxes, id, "create table kept as select n from generate_series(1, 1000) n");
  const before = await now();
  await waitFor("the clock to go on", async () => (await now()) > before, 1000, 2);
  await ask(boxes, id, "delete from kept where n > 10");

  await t.test("within a minute a mistake can be undone, into a new database", async () => {
    const mistaken = await now();
    const startedAt = performance.now();
    const window = await stored(mistaken);
    assert.ok(performance.now() - startedAt < 60_000, "the log is stored within the promised minute");
    assert.equal(window["status"], "ok");
    const copy = await restored(before, "running");
    assert.deepEqual(await ask(boxes, String(copy["id"]), count), [{ count: 1000 }]);
    assert.deepEqual(await ask(boxes, id, count), [{ count: 10 }]);
    await must("DELETE", `/databases/${String(copy["id"])}`);
  });

  await t.test("a moment outside of the window is refused with the window", async () => {
    for (const target_time of ["2020-01-01T00:00:00Z", "2120-01-01T00:00:00Z"]) {
      const refused = await api("POST", `${at}/restores`, { target_time });
      assert.deepEqual([refused.status, refused.at("error", "code")], [409, "RESTORE_POINT_UNAVAILABLE"]);
      assert.match(String(refused.at("error", "message")), / to /);
    }
  });

  await t.test("a control plane that is killed while it stores the log loses nothing of it", async () => {
    await boxes.armFault("control-plane.log.stored");
    await ask(boxes, id, "insert into kept select n from generate_series(2001, 2100) n");
    const { child } = boxes.controlPlane;
    await waitFor("the control plane to be killed", () => child.signalCode !== null, 120_000);
    await boxes.restartControlPlane();
    const moment = await now();
    await stored(moment);
    const copy = await restored(moment, "running");
    assert.deepEqual(await ask(boxes, String(copy["id"]), count), [{ count: 110 }]);
    await must("DELETE", `/databases/${String(copy["id"])}`);
  });

  await t.test("a host that is killed in the middle of a restore leaves nothing half-made", async () => {
    await boxes.armFault("host.postgresql.after-unpack");
    const { database_id: copy } = await must("POST", `${at}/restores`, { target_time: before });
    await waitFor("the host to be killed", () => boxes.hostWasKilled(), 120_000);
    await boxes.restartHost("SIGKILL");
    const path = `/databases/${String(copy)}`;
    await until(boxes, path, "the copy to run", (row) => row["state"] === "running");
    assert.deepEqual(await ask(boxes, String(copy), count), [{ count: 1000 }]);
    assert.equal((await boxes.host.databases()).length, 2);
    await must("DELETE", path);
  });

  await t.test("a segment that was changed or cut off makes no database and says which", async () => {
    const whole = filesBelow(boxes.objectsFolder).filter((file) => statSync(file).size < 100_000);
    const segments = whole.filter((file) => readFileSync(file).subarray(0, 4).toString() === "SBK1");
    assert.ok(segments.length > 0);
    for (const [index, file] of segments.entries()) {
      const bytes = readFileSync(file);
      bytes[bytes.length >> 1]! ^= 1;
      writeFileSync(file, index % 2 === 0 ? bytes : bytes.subarray(0, bytes.length >> 1));
    }
    const copy = await restored(before, "failed");
    assert.match(String(copy["last_error"]), /damaged: log segment [0-9A-F]{24}/);
    assert.equal(await boxes.host.database(`db-${String(copy["id"])}`), null);
  });

  await t.test("a target that is away turns the state red at once", async () => {
    await boxes.store.kill();
    await ask(boxes, id, "insert into kept values (1)");
    const red = await until(boxes, `${at}/point-in-time`, "the state to be red", (row) => {
      return row["status"] === "failed";
    });
    assert.equal(red["reason"], "target_unavailable");
    const database = await must("GET", at);
    assert.deepEqual([database["state"], (database["backup_state"] as Row)["status"]], ["running", "failed"]);
  });
});
