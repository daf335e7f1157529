import assert from "node:assert/strict";
import { test } from "node:test";
import { insideOf, startBoxes, whyNoBoxes } from "../testing-boxes.ts";
import { ask, until } from "../testing-databases.ts";

type Row = Record<string, unknown>;
const skip = whyNoBoxes() ?? false;

test("a fork with branches of its databases", { skip }, async (t) => {
  const boxes = await startBoxes(t);
  const { must, api } = boxes;
  const { id: shop } = await must<{ id: string }>("POST", "/databases", {
    ...{ name: "shop", memory_mb: 128, storage_mb: 256 },
  });
  await until(boxes, `/databases/${shop}`, "the database to run", (row) => row["state"] === "running");
  await ask(boxes, shop, "create table orders as select n from generate_series(1, 5000) n");
  const source = await boxes.sandbox({ name: "source", database: { existing_database_id: shop } });
  const urlIn = async (id: string) =>
    String((await must("POST", `/sandboxes/${id}/exec`, { command: "echo $DATABASE_URL" }))["stdout"]).trim();
  const fork = async (body: Row): Promise<string> => {
    const made = insideOf<Row>(await api("POST", `/sandboxes/${source}/fork`, body), "fork");
    await boxes.until(String(made["id"]), "the fork", (row) => row["ready"] === true);
    return String(made["id"]);
  };
  const databases = async () => {
    const rows = await must<Row[]>("GET", "/databases");
    return rows.filter((row) => row["state"] !== "deleted");
  };
  const branchOf = async (sandbox: string) =>
    (await databases()).find((row) => row["owner_sandbox_id"] === sandbox);

  await t.test("what is destroyed in the fork's branch is still there in the original", async () => {
    const id = await fork({ database: "branch", name: "trial" });
    const branch = (await branchOf(id))!;
    assert.match(String(branch["name"]), /^shop-/);
    const { url } = await must<{ url: string }>("GET", `/databases/${String(branch["id"])}/credentials`);
    assert.equal(await urlIn(id), url);
    assert.notEqual(url, await urlIn(source));
    assert.deepEqual(await ask(boxes, String(branch["id"]), "select count(*)::int as n from orders"), [
      { n: 5000 },
    ]);
    await ask(boxes, String(branch["id"]), "drop table orders");
    assert.deepEqual(await ask(boxes, shop, "select count(*)::int as n from orders"), [{ n: 5000 }]);

    await must("DELETE", `/sandboxes/${id}`);
    await boxes.until(
      id,
      "the fork to be gone",
      (row) => Object.keys(row).length === 0 || row["state"] === "destroyed",
    );
    await until(boxes, "/databases", "its branch to be gone", (rows) =>
      (rows as unknown as Row[]).every((row) => row["id"] !== branch["id"] || row["state"] === "deleted"),
    );
    assert.deepEqual(
      (await boxes.host.databases()).map(({ key }) => key),
      [`db-${shop}`],
    );
  });

  await t.test("a branch that something else uses by then outlives the fork", async () => {
    const id = await fork({ database: "branch" });
    const branch = String((await branchOf(id))!["id"]);
    const other = await boxes.sandbox({ database: { existing_database_id: branch } });
    await must("DELETE", `/sandboxes/${id}`);
    await until(
      boxes,
      `/databases/${branch}`,
      "it to be anybody's",
      (row) => row["owner_sandbox_id"] === null,
    );
    assert.equal((await must("GET", `/databases/${branch}`))["state"], "running");
    await must("DELETE", `/sandboxes/${other}`);
    await must("DELETE", `/databases/${branch}`);
  });

  await t.test("many forks get one each; one without links gets none; otherwise they share", async () => {
    const { forks } = insideOf<{ forks: Row[] }>(
      await api("POST", `/sandboxes/${source}/fork`, { count: 2, database: "branch" }),
      "fork",
    );
    const ids = forks.map((row) => String(row["id"]));
    for (const id of ids) await boxes.until(id, "a fork", (row) => row["ready"] === true);
    const branches = await Promise.all(ids.map(branchOf));
    assert.equal(new Set(branches.map((row) => row!["id"])).size, 2);
    assert.equal(await urlIn(await fork({ database: "none" })), "");
    assert.equal(await urlIn(await fork({})), await urlIn(source));
    for (const id of ids) await must("DELETE", `/sandboxes/${id}`);
  });

  await t.test("without content there is no branch, and the refusal leaves nothing", async () => {
    await must("POST", `/databases/${shop}/stop`, {});
    const before = (await must<Row[]>("GET", "/sandboxes")).length;
    const refused = await api("POST", `/sandboxes/${source}/fork`, { database: "branch" });
    assert.deepEqual([refused.status, refused.at("error", "code")], [409, "DATABASE_NOT_READY"]);
    assert.equal((await must<Row[]>("GET", "/sandboxes")).length, before);
    assert.equal((await api("POST", `/sandboxes/${source}/fork`, { database: "copy" })).status, 422);
  });
});
