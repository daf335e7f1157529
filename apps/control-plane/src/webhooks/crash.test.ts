import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { recordIn } from "../events/index.ts";
import { startTestApi, type TestApi } from "../testing-api.ts";
import { webhookHandlers, WebhookWorker } from "./index.ts";
import { startReceiver } from "./receiver.ts";

const waitMs = 30_000;

const start = (t: TestContext) =>
  startTestApi(t, { handlers: (platform) => webhookHandlers(platform, { allowPrivate: true }) });

const emit = (api: TestApi) =>
  recordIn(api.platform.pool, {
    tenantId: api.tenantId,
    type: "sandbox.created",
    resourceType: "sandbox",
    resourceId: randomUUID(),
    data: {},
  });

async function startWorkerProcess(t: TestContext, api: TestApi) {
  const child = fork(new URL("worker-process.ts", import.meta.url), {
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  t.after(() => child.kill("SIGKILL"));
  child.send({ databaseUrl: api.databaseUrl, sealKey: api.sealKey });
  await once(child, "message");
  return child;
}

test("a worker killed in the middle of a delivery loses none, and the row stays one", async (t) => {
  const api = await start(t);
  // The first request hangs until its worker is dead.
  const { url, received } = await startReceiver(t, (response, count) => {
    if (count > 1) response.writeHead(200).end();
  });
  await api.call("POST", "/webhooks", { body: { url } });
  const child = await startWorkerProcess(t, api);
  await emit(api);
  await waitFor("the first attempt", () => received.length === 1, waitMs);
  child.kill("SIGKILL");
  await once(child, "exit");
  await startWorkerProcess(t, api);
  const rows = await waitFor(
    "the delivery",
    async () => {
      const { rows } = await api.platform.pool.query<{ id: string; state: string }>(
        "select id, state from webhook_deliveries",
      );
      return rows.every(({ state }) => state === "delivered") && rows;
    },
    waitMs,
  );
  assert.equal(rows.length, 1);
  assert.deepEqual(
    received.map(({ headers }) => headers["x-miosa-delivery"]),
    [rows[0]!.id, rows[0]!.id],
  );
});

test("two control planes deliver each event once", async (t) => {
  const api = await start(t);
  const { url, received } = await startReceiver(t);
  await api.call("POST", "/webhooks", { body: { url } });
  const workers = [0, 1].map(() => new WebhookWorker(api.platform, { allowPrivate: true }));
  for (const worker of workers) worker.start();
  t.after(() => Promise.all(workers.map((worker) => worker.stop())));
  const events = 60;
  for (let count = 0; count < events; count++) {
    await emit(api);
    if (count % 20 === 0) api.platform.signals.announce("events");
  }
  await waitFor("all deliveries", () => received.length >= events, waitMs);
  await waitFor(
    "all outcomes",
    async () => {
      const sql = "select count(*)::int as n from webhook_deliveries where state = 'delivered'";
      return (await api.platform.pool.query<{ n: number }>(sql)).rows[0]!.n === events;
    },
    waitMs,
  );
  assert.equal(received.length, events);
  assert.equal(new Set(received.map(({ headers }) => headers["x-miosa-delivery"])).size, events);
});

test("an event whose transaction commits late is delivered as well", async (t) => {
  const api = await start(t);
  const { url, received } = await startReceiver(t);
  await api.call("POST", "/webhooks", { body: { url } });
  const worker = new WebhookWorker(api.platform, { allowPrivate: true });
  worker.start();
  t.after(() => worker.stop());
  const late = await api.platform.pool.connect();
  try {
    await late.query("begin");
    await recordIn(late, {
      tenantId: api.tenantId,
      type: "sandbox.ready",
      resourceType: "sandbox",
      resourceId: randomUUID(),
      data: {},
    });
    await emit(api);
    await late.query("commit");
  } finally {
    late.release();
  }
  await waitFor("both events", () => received.length === 2, waitMs);
  assert.deepEqual(received.map(({ headers }) => headers["x-miosa-event"]).sort(), [
    "sandbox.created",
    "sandbox.ready",
  ]);
});
