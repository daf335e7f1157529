import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { insideOf, needsGroups, startBoxes, type Boxes, whyNoBoxes } from "../testing-boxes.ts";

type Row = Record<string, unknown>;
const skip = whyNoBoxes() ?? false;
const server = `require("node:http").createServer((ask, answer) => answer.end(process.env.WORD || "")).listen(3000, "0.0.0.0")`;

/** A sandbox with a service that was made by a call of its own and holds a variable. */
async function withService(boxes: Boxes, body: Row = {}): Promise<string> {
  const id = await boxes.sandbox(body);
  await boxes.must("POST", `/sandboxes/${id}/fs/write`, { path: "/workspace/server.js", content: server });
  await boxes.must("POST", `/sandboxes/${id}/services`, {
    name: "web",
    command: "node server.js",
    env: { WORD: "kept" },
    port: 3000,
  });
  await serves(boxes, id);
  return id;
}

/** The service runs, answers with its variable and is healthy. */
async function serves(boxes: Boxes, id: string): Promise<Row> {
  return waitFor(
    "the service to serve",
    async () => {
      const one = await boxes.must(`GET`, `/sandboxes/${id}/services/web`);
      if ((one["health"] as Row | null)?.["status"] !== "healthy") return undefined;
      const said = await boxes.must("POST", `/sandboxes/${id}/exec`, {
        command: "curl -s http://127.0.0.1:3000/",
      });
      return said["stdout"] === "kept" ? one : undefined;
    },
    30_000,
  );
}

/** Ends every process of one box, while its host looks on. */
function killBox(key: string): void {
  let killed = 0;
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      if (!words.some((word) => /^box\.[0-9a-f]+\./.test(word) && word.endsWith(`.${key}`))) continue;
      process.kill(Number(pid), "SIGKILL");
      killed++;
    } catch {
      // It ended meanwhile.
    }
  }
  assert.ok(killed > 0, `no process of ${key} was found`);
}

test("the life of a sandbox", { skip }, async (t) => {
  const boxes = await startBoxes(t);
  const { must } = boxes;

  await t.test(
    "a service made by a call comes back after a restore, a pause and a stopped host",
    { skip: needsGroups },
    async () => {
      const id = await withService(boxes);
      const at = `/sandboxes/${id}`;
      const snapshot = await must("POST", `${at}/snapshots`, {});
      await must("POST", `${at}/restore/${String(snapshot["id"])}`, {});
      await serves(boxes, id);
      await must("POST", `${at}/pause`, {});
      await must("POST", `${at}/resume`, {});
      await serves(boxes, id);
      await must("POST", `${at}/exec`, { command: "echo fresh > note; sync note" });
      await boxes.restartHost("SIGTERM");
      await serves(boxes, id);
      const note = await must("POST", `${at}/exec`, { command: "cat note" });
      assert.equal(note["stdout"], "fresh\n");
      // One that a client stopped stays stopped in the next box too.
      const { id: service } = await must("GET", `${at}/services/web`);
      await must("DELETE", `${at}/processes/${String(service)}`);
      await boxes.restartHost("SIGTERM");
      await boxes.until(id, "the sandbox to run again", (row) => row["ready"] === true);
      assert.equal((await must("GET", `${at}/services/web`))["status"], "stopped");
      await must("POST", `${at}/services/web/restart`, {});
      await serves(boxes, id);
    },
  );

  await t.test(
    "a paused sandbox outlives its host's stop and wakes from its disk",
    { skip: needsGroups },
    async () => {
      const id = await withService(boxes);
      await must("POST", `/sandboxes/${id}/pause`, {});
      await boxes.restartHost("SIGTERM");
      assert.equal((await must("GET", `/sandboxes/${id}`))["state"], "paused");
      await must("POST", `/sandboxes/${id}/resume`, {});
      await serves(boxes, id);
    },
  );

  await t.test(
    "a failed sandbox is recovered with its files and services, a running one is not",
    async () => {
      const id = await withService(boxes);
      const refused = await boxes.api("POST", `/sandboxes/${id}/recover`, {});
      assert.deepEqual([refused.status, refused.at("error", "code")], [409, "CONFLICT"]);
      killBox(`sb-${id}`);
      await boxes.until(id, "the failure", (row) => row["state"] === "error");
      const made = insideOf<Row>(await boxes.api("POST", `/sandboxes/${id}/recover`, {}), "recover");
      assert.equal(made["restored_from"], id);
      assert.notEqual(made["id"], id);
      await boxes.until(String(made["id"]), "the recovered one", (row) => row["ready"] === true);
      await serves(boxes, String(made["id"]));
      assert.equal((await must("GET", `/sandboxes/${id}`))["state"], "error");
    },
  );

  await t.test(
    "forks of one moment have its files, services and database, at most so many starting at once",
    async () => {
      const id = await withService(boxes, { database: true });
      const url = (await must("POST", `/sandboxes/${id}/exec`, { command: "echo $DATABASE_URL" }))["stdout"];
      assert.match(String(url), /^postgresql:/);
      const answer = insideOf<{ forks: Row[]; count: number; forked_from: string }>(
        await boxes.api("POST", `/sandboxes/${id}/fork`, { count: 4, concurrency: 2, name: "copy" }),
        "fork",
      );
      assert.deepEqual([answer.count, answer.forked_from], [4, id]);
      assert.deepEqual(
        answer.forks.map((one) => one["name"]),
        ["copy-1", "copy-2", "copy-3", "copy-4"],
      );
      // The copy was made before the answer: what happens now is not in it.
      await must("POST", `/sandboxes/${id}/exec`, { command: "echo late > late" });
      for (const fork of answer.forks) {
        const forkId = String(fork["id"]);
        await boxes.until(forkId, "a fork", (row) => row["ready"] === true);
        await serves(boxes, forkId);
        const seen = await must("POST", `/sandboxes/${forkId}/exec`, {
          command: "echo $DATABASE_URL; ls *.js; ls late 2>&1 | wc -l; grep -c DATABASE_URL AGENTS.md",
        });
        assert.equal(seen["stdout"], `${String(url)}server.js\n1\n1\n`);
      }
      await waitFor(
        "the copy to be removed",
        async () => (await boxes.host.snapshots()).every((one) => !one.key.startsWith("fork-")),
        20_000,
      );
      for (const body of [{ count: 0 }, { count: 101 }])
        assert.equal((await boxes.api("POST", `/sandboxes/${id}/fork`, body)).status, 422);
    },
  );

  await t.test("a fork whose control plane dies at the copy is made nevertheless, once", async () => {
    const id = await withService(boxes);
    const key = randomUUID();
    const fork = () => boxes.api("POST", `/sandboxes/${id}/fork`, {}, { "idempotency-key": key });
    await boxes.armFault("control-plane.sandbox.copied");
    await fork().catch(() => undefined); // The connection ends with the control plane.
    await boxes.restartControlPlane();
    const made = insideOf<Row>(await fork(), "fork");
    await boxes.until(String(made["id"]), "the fork", (row) => row["ready"] === true);
    await serves(boxes, String(made["id"]));
    const rows = insideOf<Row[]>(await boxes.api("GET", "/sandboxes?limit=200"), "list");
    assert.equal(rows.filter((row) => row["restored_from"] === id).length, 1);
  });

  await t.test(
    "a restore that is cut off is finished, and its repeat restores nothing a second time",
    async () => {
      const id = await withService(boxes);
      const snapshot = await must("POST", `/sandboxes/${id}/snapshots`, {});
      const key = randomUUID();
      const restore = () =>
        boxes.api(
          "POST",
          `/sandboxes/${id}/restore/${String(snapshot["id"])}`,
          {},
          { "idempotency-key": key },
        );
      await boxes.armFault("control-plane.snapshot.restore-stored");
      await restore().catch(() => undefined); // The connection ends with the control plane.
      await boxes.restartControlPlane();
      insideOf(await restore(), "restore");
      await must("POST", `/sandboxes/${id}/exec`, { command: "echo later > later; sync later" });
      insideOf(await restore(), "restore");
      const later = await must("POST", `/sandboxes/${id}/exec`, { command: "cat later" });
      assert.equal(later["stdout"], "later\n");
      await serves(boxes, id);
    },
  );

  await t.test("a snapshot that is cut off says so at once, and its repeat makes it", async () => {
    const id = await withService(boxes);
    const key = randomUUID();
    const snapshot = () => boxes.api("POST", `/sandboxes/${id}/snapshots`, {}, { "idempotency-key": key });
    await boxes.armFault("control-plane.snapshot.stored");
    await snapshot().catch(() => undefined); // The connection ends with the control plane.
    await boxes.restartControlPlane();
    const list = () => must<Row[]>("GET", `/sandboxes/${id}/snapshots`);
    const [cut] = await list();
    await waitFor("the cut off one to fail", async () => (await list())[0]?.["status"] === "failed", 60_000);
    const again = insideOf<Row>(await snapshot(), "the repeat");
    assert.deepEqual([again["id"], again["status"], again["error"]], [cut?.["id"], "ready", null]);
    const used = await boxes.sandbox({ snapshot_id: again["id"] });
    assert.match(
      String((await must("POST", `/sandboxes/${used}/exec`, { command: "ls" }))["stdout"]),
      /server.js/,
    );
  });

  await t.test("the guest's own figures are the sandbox's, not the machine's", async () => {
    const id = await boxes.sandbox({ size: "xs" });
    const box = (await boxes.host.boxes()).find((one) => one.key === `sb-${id}`);
    assert.equal(box?.isolation?.driver, "bubblewrap");
    const figures = await must("POST", `/sandboxes/${id}/exec`, {
      command: "curl -s --unix-socket /run/agent/guest.sock http://box/metrics",
    });
    const seen = JSON.parse(String(figures["stdout"])) as Record<string, number>;
    assert.deepEqual([seen["mem_total"], seen["cpu_count"]], [2048 * 1024 * 1024, 1]);
    assert.ok(seen["mem_used"]! > 0 && seen["mem_used"]! < seen["mem_total"]!, JSON.stringify(seen));
  });
});
