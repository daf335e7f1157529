import assert from "node:assert/strict";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { needsGroups, startBoxes, whyNoBoxes } from "../testing-boxes.ts";

type Row = Record<string, unknown>;
const skip = whyNoBoxes() ?? false;
const server = `require("node:http").createServer((ask, answer) => answer.end("seen")).listen(3000, "0.0.0.0")`;

test("what is seen of a sandbox from outside", { skip }, async (t) => {
  const boxes = await startBoxes(t, { METRICS_EVERY_MS: "500" });
  const { must, api } = boxes;
  const id = await boxes.sandbox({ idle_timeout_sec: 0 });
  const at = `/sandboxes/${id}`;
  await must("POST", `${at}/fs/write`, { path: "/workspace/server.js", content: server });
  await must("POST", `${at}/services`, { name: "web", command: "node server.js", port: 3000 });
  const events = async (type: string) =>
    (await must<Row[]>("GET", `/platform-events?after_seq=0&limit=200&types=${type}`)).map(
      (row) => row["payload"] as Row,
    );

  await t.test(
    "a port that begins to listen is told with how to expose it, and its end as well",
    async () => {
      const [opened] = await waitFor(
        "the port's event",
        async () => {
          const found = (await events("sandbox.port_opened")).filter((one) => one["port"] === 3000);
          return found.length > 0 && found;
        },
        30_000,
      );
      assert.equal(opened!["suggestion"], `POST ${at}/expose {"port": 3000}`);
      assert.equal(opened!["loopback_only"], false);
    },
  );

  await t.test(
    "links open a private preview until they end, and nothing else does",
    { skip: needsGroups },
    async () => {
      const preview = await must("POST", `${at}/previews`, { port: 3000 });
      const pid = String(preview["id"]);
      const url = String(preview["url"]);
      const visit = async (link: string) => (await boxes.fetch(link)).status;
      assert.equal(await visit(`${url}/`), 401);
      const share = await must("POST", `${at}/previews/${pid}/share`, { ttl_seconds: 600 });
      assert.equal(await visit(String(share["share_url"])), 200);
      const token = await must("POST", `${at}/preview-token`, {});
      assert.equal(await visit(`${url}/?ms=${String(token["token"])}`), 200);
      const other = await must("POST", `${at}/shares`, { expires_in: 600 });
      assert.equal(await visit(String(other["share_url"])), 200);
      const listed = await must<Row[]>("GET", `${at}/shares`);
      assert.equal(listed.length, 3);
      assert.ok(
        listed.every((row) => !String(row["share_url"]).includes("ms=")),
        "the secret is shown once",
      );
      assert.equal((await api("DELETE", `${at}/shares/${String(other["share_id"])}`)).status, 200);
      assert.equal(await visit(String(other["share_url"])), 401);
      assert.equal((await api("DELETE", `${at}/previews/${pid}/share`)).status, 200);
      assert.equal(await visit(String(share["share_url"])), 401);
      assert.equal(await visit(`${url}/?ms=${String(token["token"])}`), 200, "a token of the sandbox stays");
      const short = await must("POST", `${at}/previews/${pid}/share`, { ttl_seconds: 1 });
      await waitFor("the link's end", async () => (await visit(String(short["share_url"]))) === 401, 20_000);
      // A look at the preview wakes the sandbox, for who may see it.
      await must("POST", `${at}/pause`, {});
      assert.equal(await visit(`${url}/`), 401);
      assert.equal((await must("GET", at))["state"], "paused");
      const woken = await boxes.fetch(`${url}/?ms=${String(token["token"])}`);
      assert.deepEqual([woken.status, woken.text], [200, "seen"]);
      assert.equal((await must("GET", at))["state"], "running");
    },
  );

  await t.test(
    "series and usage are the kernel's figures, and grow while the sandbox works",
    { skip: needsGroups },
    async () => {
      await must("POST", `${at}/exec`, { command: "timeout 2 sh -c 'while :; do :; done'", timeout: 20 });
      const metrics = await waitFor(
        "a busy point",
        async () => {
          const now = await must("GET", `${at}/metrics?window=1h`);
          const series = now["series"] as Record<string, { t: string; value: number }[]>;
          return series["cpu_percent"]!.some((point) => point.value > 5) && now;
        },
        30_000,
      );
      assert.ok((metrics["series"] as Record<string, Row[]>)["memory_mb"]!.length > 0);
      const usage = await must("GET", `${at}/usage`);
      assert.ok(Number(usage["active_cpu_ms"]) > 300, JSON.stringify(usage));
      assert.equal((usage["measurement_status"] as Row)["active_cpu"], "measured");
      assert.equal((await api("GET", `${at}/metrics?window=2y`)).status, 422);
    },
  );

  await t.test(
    "a process that the kernel ends for memory is told, and the sandbox lives on",
    { skip: needsGroups },
    async () => {
      const small = await boxes.sandbox({ cpu_count: 1, memory_mb: 192, disk_size_mb: 512 });
      const eaten = await must("POST", `/sandboxes/${small}/exec`, {
        command: `node -e 'const a = []; for (;;) a.push(Buffer.alloc(8 << 20, 1))'`,
        timeout: 60,
      });
      assert.notEqual(eaten["exit_code"], 0);
      const [told] = await waitFor(
        "the event",
        async () => {
          const found = (await events("sandbox.oom")).filter((one) => one["id"] === small);
          return found.length > 0 && found;
        },
        60_000,
      );
      const evidence = told!["evidence"] as Record<string, unknown>;
      assert.equal(evidence["memory_limit_bytes"], 192 * 1024 * 1024);
      assert.ok(Number(evidence["kills"]) >= 1);
    },
  );

  await t.test("snapshots end with their time, but the last ones that shall be kept stay", async () => {
    await must("PATCH", at, { metadata: { keep_last_snapshots: 1 } });
    const first = await must("POST", `${at}/snapshots`, { expiration: "1s" });
    const last = await must("POST", `${at}/snapshots`, { expiration: "1s" });
    await waitFor(
      "the older one's end",
      async () => (await api("GET", `${at}/snapshots/${String(first["id"])}`)).status === 404,
      60_000,
    );
    assert.equal((await api("GET", `${at}/snapshots/${String(last["id"])}`)).status, 200);
  });

  await t.test(
    "a sandbox that nobody uses is paused and wakes for a command; one that is always on is not",
    { skip: needsGroups },
    async () => {
      const idle = await boxes.sandbox({ idle_timeout_sec: 2, size: "xs" });
      const always = await boxes.sandbox({ idle_timeout_sec: 2, always_on: true, size: "xs" });
      await boxes.until(idle, "the idle pause", (row) => row["state"] === "paused");
      assert.equal((await must("GET", `/sandboxes/${always}`))["state"], "running");
      assert.equal(
        (await must("POST", `/sandboxes/${idle}/exec`, { command: "echo awake" }))["stdout"],
        "awake\n",
      );
      const extended = await must("POST", `/sandboxes/${idle}/extend`, { timeout_sec: 7200 });
      assert.ok(Number(extended["timeout_remaining_ms"]) > 7_100_000);
    },
  );
});
