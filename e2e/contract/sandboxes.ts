import assert from "node:assert/strict";
import { test } from "node:test";
import type { Json } from "./api.ts";
import { unwrapped as data } from "./rules.ts";
import { assertShape, inside, shapes } from "./shapes.ts";
import type { Scene } from "./scene.ts";

export function sandboxes(scene: Scene): void {
  const { api, ok, refused } = scene;
  test("a sandbox has every field of the contract, and so has the one in the list", async () => {
    const one = inside(ok(await api.get(`/sandboxes/${scene.box}`)), "T") as Json;
    assertShape(one, shapes.sandbox, "sandbox");
    assert.equal(one["state"], "running");
    assert.equal(one["ready"], true);
    assert.deepEqual(one["tags"], {});
    assert.deepEqual(one["metadata"], { purpose: "demo" });
    assert.equal(one["created_at"], one["inserted_at"]);
    assert.deepEqual(one["resource_contract"], {
      id: "sandbox/small@v1",
      product: "sandbox",
      size: "small",
      version: "v1",
      vcpus: 2,
      memory_mb: 4096,
      disk_size_mb: 10_240,
    });
    assert.match(String(one["preview_url"]), new RegExp(`^https?://${one["slug"]}\\.sandbox\\.`));
    const list = ok(await api.get("/sandboxes?external_workspace_id=clinic-7"));
    assertShape((inside(list, "L") as Json[])[0], shapes.sandbox, "listed sandbox");
    assertShape(
      (list.json as Json)["meta"],
      {
        page: "number",
        limit: "number",
        total: "number",
        total_pages: "number",
        has_next_page: "boolean",
        state_counts: "object",
        reserved_memory_mb: "number",
      },
      "meta",
    );
    assert.equal(data(ok(await api.get("/sandboxes/by-name/contract")))["id"], scene.box);
  });

  test("tags come back in the form in which they were set, and filter in both", async () => {
    const change = (tags: unknown) => api.call("PATCH", `/sandboxes/${scene.box}/tags`, { body: { tags } });
    assert.deepEqual((inside(ok(await change(["a", "b"])), "T") as Json)["tags"], ["a", "b"]);
    assert.equal((inside(ok(await api.get("/sandboxes?tags=a,b")), "L") as Json[]).length, 1);
    assert.deepEqual((inside(ok(await change({ team: "x" })), "T") as Json)["tags"], { team: "x" });
    assert.equal((inside(ok(await api.get("/sandboxes?tags%5Bteam%5D=x")), "L") as Json[]).length, 1);
    assert.equal((inside(ok(await api.get("/sandboxes?tags%5Bteam%5D=y")), "L") as Json[]).length, 0);
  });

  test("usage, metrics, ports, logs and readiness have their shapes", async () => {
    const at = `/sandboxes/${scene.box}`;
    assertShape(inside(ok(await api.get(`${at}/usage`)), "D"), shapes.usage, "usage");
    const metrics = inside(ok(await api.get(`${at}/metrics?window=1h`)), "D");
    assertShape(
      metrics,
      { resource_type: "string", sandbox_id: "uuid", window: "string", current: "object", series: "object" },
      "metrics",
    );
    assertShape(
      inside(ok(await api.get(`${at}/ports`)), "T"),
      { sandbox_id: "uuid", count: "number", ports: "array" },
      "ports",
    );
    assertShape(inside(ok(await api.get(`${at}/logs?lines=5`)), "T"), { logs: "array" }, "logs");
    const readiness = inside(ok(await api.get(`${at}/readiness`)), "T") as Json;
    assert.equal(readiness["ready"], true);
    const { components } = readiness["readiness"] as { components: Record<string, Json> };
    assert.deepEqual(Object.keys(components).sort(), [
      "clock",
      "command_agent",
      "durability",
      "filesystem",
      "identity",
      "internal_probe",
      "process_control",
      "resource_contract",
    ]);
    assert.ok(Object.values(components).every(({ status }) => status === "ready"));
  });

  test("wait=2 answers 201 with timeout while a sandbox still prepares, and no wait says nothing", async () => {
    const slow = await api.create("/sandboxes?wait=2", { setup_file: "sleep 20" });
    ok(slow, 201);
    assert.equal(slow.headers["x-miosa-wait"], "timeout");
    assert.equal(data(slow)["ready"], false);
    const direct = ok(await api.create("/sandboxes", { size: "xs" }), 201);
    assert.equal(direct.headers["x-miosa-wait"], undefined);
    // A call right after a 201 holds, or is refused for now: never a 404, never a 5xx.
    const early = await api.post(`/sandboxes/${data(direct)["id"]}/exec`, { command: "echo early" });
    if (early.status !== 200) assert.equal(refused(early, 409, "SANDBOX_STARTING")["retryable"], true);
    for (const made of [slow, direct]) {
      const gone = inside(ok(await api.call("DELETE", `/sandboxes/${data(made)["id"]}`)), "T") as Json;
      assert.equal(gone["state"], "destroyed");
      refused(await api.get(`/sandboxes/${data(made)["id"]}`), 404, "NOT_FOUND");
    }
  });

  test("environment values are set, listed without their value, seen by commands, and removed", async () => {
    const at = `/sandboxes/${scene.box}/env`;
    const set = ok(
      await api.call("PUT", at, { body: { vars: [{ key: "GREETING", value: "a secret value" }] } }),
    );
    assert.ok(!set.text.includes("a secret value"));
    const rows = inside(ok(await api.get(at)), "L") as Json[];
    assertShape(
      rows.find((row) => row["key"] === "GREETING"),
      { key: "string", name: "string", preview: "string", encrypted: "boolean" },
      "env",
    );
    ok(await api.post(`${at}/sync`));
    const said = await api.post(`/sandboxes/${scene.box}/exec`, { command: 'echo "$GREETING"' });
    assert.equal(data(said)["stdout"], "a secret value\n");
    ok(await api.call("DELETE", `${at}/GREETING`));
  });

  test("snapshots are listed, forked, protected while in use, restored and removed", async () => {
    const at = `/sandboxes/${scene.box}/snapshots`;
    const made = ok(await api.create(at, { comment: "before" }), 201);
    assertShape(inside(made, "D"), shapes.snapshot, "snapshot");
    const id = data(made)["id"];
    await api.until(`${at}/${id}`, (json) => (json["data"] as Json)["status"] === "ready");
    assert.ok((inside(ok(await api.get(at)), "L") as Json[]).some((row) => row["id"] === id));
    const fork = inside(
      ok(await api.create(`/sandboxes/${scene.box}/fork`, { snapshot_id: id, name: "fork-1" }), 201),
      "T",
    ) as Json;
    assertShape(fork, shapes.sandbox, "fork");
    const error = refused(await api.call("DELETE", `${at}/${id}`), 409, "SNAPSHOT_IN_USE");
    const { dependents } = error["details"] as { dependents: Json[] };
    assert.deepEqual(dependents, [{ type: "sandbox", id: fork["id"], label: "fork-1" }]);
    ok(await api.call("DELETE", `/sandboxes/${fork["id"]}`));
    assert.equal(
      (inside(ok(await api.post(`/sandboxes/${scene.box}/restore/${id}`)), "T") as Json)["id"],
      scene.box,
    );
    await api.until(`/sandboxes/${scene.box}`, (json) => json["ready"] === true);
    assert.ok([200, 204].includes((await api.call("DELETE", `${at}/${id}`)).status));
  });

  const isRoot = process.getuid?.() === 0;
  test(
    "without root a pause is refused at once, and the sandbox goes on",
    { skip: isRoot && "it is root" },
    async () => {
      const at = `/sandboxes/${scene.box}`;
      assert.equal((await api.post(`${at}/pause`)).status, 409);
      assert.equal(data(ok(await api.post(`${at}/exec`, { command: "echo on" })))["stdout"], "on\n");
    },
  );
  const skip = isRoot ? false : "only root can hold a box's processes still";
  test("a paused sandbox wakes for a command, and its processes went on", { skip }, async () => {
    const at = `/sandboxes/${scene.box}`;
    assert.deepEqual(inside(ok(await api.post(`${at}/pause`)), "T"), { id: scene.box, state: "paused" });
    assert.equal(data(ok(await api.post(`${at}/exec`, { command: "echo awake" })))["stdout"], "awake\n");
    assert.equal((inside(ok(await api.post(`${at}/stop`)), "T") as Json)["state"], "paused");
    assert.equal((inside(ok(await api.post(`${at}/resume`)), "T") as Json)["state"], "running");
    const extended = inside(ok(await api.post(`${at}/extend`, { timeout_sec: 7200 })), "T") as Json;
    assert.ok(Number(extended["timeout_remaining_ms"]) > 7_100_000);
    assert.equal(
      (inside(ok(await api.call("PATCH", at, { body: { idle_timeout_sec: 900 } })), "T") as Json)[
        "idle_timeout_sec"
      ],
      900,
    );
  });
}
