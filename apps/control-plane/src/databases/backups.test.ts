import assert from "node:assert/strict";
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { startBoxes, whyNoBoxes, type Boxes } from "../testing-boxes.ts";
import { ask, filesBelow, openClient, until } from "../testing-databases.ts";

type Row = Record<string, unknown>;
const skip = whyNoBoxes() ?? false;

/** Resolves once a server was made of the backup and logged in. */
async function proved(boxes: Boxes, id: string, backupId: unknown): Promise<Row> {
  let last: Row = {};
  return waitFor(
    "the backup to be proved",
    async () => {
      last = await backupOf(boxes, id, backupId);
      return last["restored_ok_at"] ? last : false;
    },
    120_000,
  ).catch((cause: unknown) => {
    throw new Error(`the backup was not proved: last seen ${JSON.stringify(last)}`, { cause });
  });
}

const backupOf = async (boxes: Boxes, id: string, backupId: unknown) => {
  const all = await boxes.must<Row[]>("GET", `/databases/${id}/backups`);
  return all.find((one) => one["id"] === backupId) ?? {};
};

test("backups, restores and branches of a database", { skip }, async (t) => {
  const boxes = await startBoxes(t);
  const { must, api } = boxes;
  const { id } = await must<{ id: string }>("POST", "/databases", {
    name: "kept",
    memory_mb: 128,
    storage_mb: 256,
  });
  await until(boxes, `/databases/${id}`, "the database to run", (row) => row["state"] === "running");
  await ask(
    boxes,
    id,
    "create table kept as select n, 'a-word-that-is-looked-for' as word from generate_series(1, 1000) n",
  );
  let backupId = "";

  await t.test("a backup is stored encrypted and was restored once before it counts as good", async () => {
    const made = await must("POST", `/databases/${id}/backups`, {});
    backupId = String(made["id"]);
    const good = await proved(boxes, id, backupId);
    assert.equal(good["state"], "completed");
    assert.ok(Number(good["size_bytes"]) > 1000);
    const row = await must("GET", `/databases/${id}`);
    assert.equal((row["backup_state"] as Row)["status"], "ok");
    assert.ok((await boxes.host.databases()).every(({ key }) => !key.startsWith("drill-")));
    for (const file of filesBelow(boxes.objectsFolder))
      assert.equal(readFileSync(file).indexOf("a-word-that-is-looked-for"), -1);
  });

  await t.test("a restore makes a new database; the original keeps what came later", async () => {
    await ask(boxes, id, "delete from kept where n > 10; insert into kept values (5000, 'later')");
    const restored = await must("POST", `/databases/${id}/restores`, { backup_id: backupId });
    const copy = String(restored["database_id"]);
    assert.notEqual(copy, id);
    await until(boxes, `/databases/${copy}`, "the copy to run", (row) => row["state"] === "running");
    const count = "select count(*)::int as count, max(n) as most from kept";
    assert.deepEqual(await ask(boxes, copy, count), [{ count: 1000, most: 1000 }]);
    assert.deepEqual(await ask(boxes, id, count), [{ count: 11, most: 5000 }]);
    await must("DELETE", `/databases/${copy}`);
  });

  await t.test("a branch has the content of the moment, and what is done to it stays there", async () => {
    const branch = await must("POST", `/databases/${id}/branches`, {});
    const copy = String(branch["id"]);
    await until(boxes, `/databases/${copy}`, "the branch to run", (row) => row["state"] === "running");
    assert.deepEqual(await ask(boxes, copy, "select count(*)::int as count from kept"), [{ count: 11 }]);
    await ask(boxes, copy, "drop table kept");
    assert.deepEqual(await ask(boxes, id, "select count(*)::int as count from kept"), [{ count: 11 }]);
    await must("DELETE", `/databases/${copy}`);
  });

  await t.test("a control plane that is killed in the middle of a backup ends it", async () => {
    await boxes.armFault("control-plane.backup.stored");
    const made = await must("POST", `/databases/${id}/backups`, {});
    await waitFor(
      "the control plane to be killed",
      () => boxes.controlPlane.child.signalCode !== null,
      120_000,
    );
    await boxes.restartControlPlane();
    await proved(boxes, id, made["id"]);
  });

  /** Bytes that the store keeps, and those of the backups that are told of. */
  const stored = () =>
    filesBelow(join(boxes.objectsFolder, "blobs")).reduce((sum, file) => sum + statSync(file).size, 0);
  const told = async () => {
    const all = await must<Row[]>("GET", `/databases/${id}/backups`);
    return all.reduce((sum, one) => sum + (one["state"] === "failed" ? 0 : Number(one["size_bytes"])), 0);
  };
  const nothingElseIsStored = () =>
    waitFor("nothing else to be stored", async () => stored() === (await told()), 30_000).catch(async () =>
      assert.equal(stored(), await told()),
    );
  const cutOffWhenStored = async () => {
    await boxes.armFault("control-plane.backup.stored");
    const made = await must("POST", `/databases/${id}/backups`, {});
    const isAway = async () => (await api("GET", "/whoami")).status !== 200;
    await waitFor("the control plane to end", isAway, 120_000);
    return made["id"];
  };

  await t.test(
    "of an attempt that was cut off nothing is left, though the next one stores less",
    async () => {
      const client = await openClient(boxes, id);
      await client.query(
        `create table noise as select (select string_agg(md5(random()::text || n || m), '') from generate_series(1, 32) m)
       from generate_series(1, 30000) n`,
      );
      const before = await told();
      const backup = await cutOffWhenStored();
      assert.ok(stored() - before > 2 * 8 * 1024 * 1024, "it was stored in several parts");
      await client.query("drop table noise");
      await client.end();
      await boxes.restartControlPlane();
      await proved(boxes, id, backup);
      await nothingElseIsStored();
    },
  );

  await t.test("nor of a backup that was given up", async () => {
    const before = stored();
    const backup = await cutOffWhenStored();
    assert.ok(stored() > before);
    const home = join(boxes.hostFolder, "engines/postgres/databases", `db-${id}`);
    const data = ["disk/data", "cluster"].map((name) => join(home, name)).find((path) => existsSync(path))!;
    const [version, pid] = ["PG_VERSION", "postmaster.pid"].map((name) => join(data, name)) as [
      string,
      string,
    ];
    renameSync(version, `${version}.aside`);
    process.kill(Number(readFileSync(pid, "utf8").split("\n")[0]), "SIGKILL");
    await boxes.restartControlPlane();
    const isGivenUp = async () => (await backupOf(boxes, id, backup))["state"] === "failed";
    await waitFor("the backup to be given up", isGivenUp, 120_000);
    await nothingElseIsStored();
    renameSync(`${version}.aside`, version);
    // What is stored of its state may be from before the server was killed.
    await waitFor(
      "the server to run again",
      async () => (await boxes.host.database(`db-${id}`))?.state === "running",
      60_000,
    );
    await until(boxes, `/databases/${id}`, "the database to run", (row) => row["state"] === "running");
    await proved(boxes, id, (await must("POST", `/databases/${id}/backups`, {}))["id"]);
  });

  await t.test("a stored backup that was changed makes no database and says so", async () => {
    const files = filesBelow(boxes.objectsFolder).filter((file) => statSync(file).size > 100_000);
    assert.ok(files.length > 0);
    for (const file of files) {
      const bytes = readFileSync(file);
      bytes[bytes.length >> 1]! ^= 1;
      writeFileSync(file, bytes);
    }
    const restored = await must("POST", `/databases/${id}/restores`, {
      backup_id: backupId,
      name: "damaged",
    });
    const copy = String(restored["database_id"]);
    const row = await until(
      boxes,
      `/databases/${copy}`,
      "the restore to fail",
      (one) => one["state"] === "failed",
    );
    assert.ok(row["last_error"], JSON.stringify(row));
    assert.equal(await boxes.host.database(`db-${copy}`), null);
  });

  await t.test("a target that is away turns the state red at once", async () => {
    // What was killed before is over for the control plane, too.
    const isWell = (row: Row) =>
      row["state"] === "running" && (row["backup_state"] as Row)["status"] === "ok";
    await until(boxes, `/databases/${id}`, "everything to be well", isWell);
    await boxes.store.kill();
    await must("POST", `/databases/${id}/backups`, {});
    const red = await until(boxes, `/databases/${id}`, "the state to be red", (row) => {
      return (row["backup_state"] as Row)["status"] === "failed";
    });
    assert.equal((red["backup_state"] as Row)["reason"], "target_unavailable");
    assert.equal(red["state"], "running");
  });

  await t.test("a foreign backup is not found", async () => {
    const other = await api("POST", `/databases/${id}/restores`, {
      backup_id: "00000000-0000-4000-8000-000000000000",
    });
    assert.equal(other.status, 404);
  });
});
