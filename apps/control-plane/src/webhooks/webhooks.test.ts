import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { platformEventHandlers } from "../events/index.ts";
import { workspaceHandlers } from "../tenants/index.ts";
import { startTestApi, type TestApi } from "../testing-api.ts";
import { webhookHandlers, WebhookWorker } from "./index.ts";
import { startReceiver } from "./receiver.ts";

const waitMs = 20_000;
type Hook = {
  id: string;
  secret: string;
  secret_preview: string;
  events: string[];
  active: boolean;
  state: string;
};
type Delivery = {
  id: string;
  state: string;
  event: string;
  attempts: number;
  response_status: number | null;
  response_body: string | null;
  error_reason: string | null;
  replay_of: string | null;
  next_retry_at: string | null;
};

async function start(t: TestContext, options: { allowPrivate?: boolean; work?: boolean } = {}) {
  const allowPrivate = options.allowPrivate ?? true;
  const api = await startTestApi(t, {
    handlers: (platform) => [
      ...webhookHandlers(platform, { allowPrivate }),
      ...workspaceHandlers(platform),
      ...platformEventHandlers(platform),
    ],
  });
  if (options.work ?? true) {
    const worker = new WebhookWorker(api.platform, { allowPrivate, retryBaseMs: 10 });
    worker.start();
    t.after(() => worker.stop());
  }
  return api;
}

async function create(api: TestApi, fields: Record<string, unknown>): Promise<Hook> {
  const made = await api.call("POST", "/webhooks", { body: fields });
  assert.equal(made.status, 201, JSON.stringify(made.body));
  return made.body["data"] as Hook;
}

const deliveriesOf = async (api: TestApi, id: string) =>
  (await api.call("GET", `/webhooks/${id}/deliveries`)).body["data"] as Delivery[];

const settled = (api: TestApi, id: string, state: string) =>
  waitFor(
    `a delivery that is ${state}`,
    async () => (await deliveriesOf(api, id)).find((row) => row.state === state),
    waitMs,
  );

test("an event reaches a webhook once, signed, and the receiver's answer is kept", async (t) => {
  const api = await start(t);
  const { url, received } = await startReceiver(t);
  const hook = await create(api, { url, events: ["workspace.created"], headers: { "X-Custom": "yes" } });
  const workspace = (await api.call("POST", "/workspaces", { body: { name: "New" } })).body["data"] as {
    id: string;
  };
  const delivery = await settled(api, hook.id, "delivered");
  assert.deepEqual([delivery.attempts, delivery.response_status, delivery.response_body], [1, 200, "ok"]);

  assert.equal(received.length, 1);
  const { headers, body } = received[0]!;
  assert.equal(
    headers["x-miosa-signature"],
    `sha256=${createHmac("sha256", hook.secret).update(body).digest("hex")}`,
  );
  assert.equal(headers["x-miosa-event"], "workspace.created");
  assert.equal(headers["x-miosa-delivery"], delivery.id);
  assert.equal(headers["x-custom"], "yes");
  const event = JSON.parse(body) as Record<string, unknown> & { data: { id: string } };
  assert.deepEqual(
    [event["id"], event["delivery_id"], event["event"], event["type"]],
    [delivery.id, delivery.id, "workspace.created", "workspace.created"],
  );
  assert.equal(event["tenant_id"], api.tenantId);
  assert.equal(event.data.id, workspace.id);
});

test("the secret shows once; afterwards only a preview and the names of headers", async (t) => {
  const api = await start(t, { work: false });
  const hook = await create(api, {
    url: "https://example.com/hook",
    headers: { Authorization: "Bearer abc" },
  });
  assert.match(hook.secret, /^whsec_/);
  const seen = await api.call("GET", `/webhooks/${hook.id}`);
  const text = JSON.stringify(seen.body) + JSON.stringify((await api.call("GET", "/webhooks")).body);
  assert.equal(text.includes(hook.secret) || text.includes("abc"), false);
  assert.ok((seen.body["data"] as Hook).secret_preview.length > 2);
  const stored = await api.platform.pool.query("select * from webhooks");
  assert.equal(JSON.stringify(stored.rows).includes(hook.secret), false);
});

test("a failing receiver is tried again until it answers", async (t) => {
  const api = await start(t);
  const { url, received } = await startReceiver(
    t,
    (response, count) => void response.writeHead(count < 3 ? 500 : 204).end(),
  );
  const hook = await create(api, { url, events: ["workspace.*"], retry_count: 3 });
  await api.call("POST", "/workspaces", { body: { name: "New" } });
  const delivery = await settled(api, hook.id, "delivered");
  assert.equal(delivery.attempts, 3);
  assert.equal(new Set(received.map(({ body }) => body)).size, 1);
});

test("when retries are used up the delivery is a dead letter; without retries it failed", async (t) => {
  const api = await start(t);
  const { url } = await startReceiver(t, (response) => void response.writeHead(503).end("down"));
  const [patient, hasty] = [
    await create(api, { url, retry_count: 2 }),
    await create(api, { url, retry_count: 0 }),
  ];
  await api.call("POST", "/workspaces", { body: { name: "New" } });
  const dead = await settled(api, patient.id, "dead_letter");
  assert.deepEqual(
    [dead.attempts, dead.response_status, dead.error_reason, dead.next_retry_at],
    [3, 503, "STATUS_NOT_2XX", null],
  );
  assert.equal((await settled(api, hasty.id, "failed")).attempts, 1);
});

test("redirects are not followed, and an unreachable receiver has its reason", async (t) => {
  const api = await start(t);
  const { url, received } = await startReceiver(
    t,
    (response) => void response.writeHead(302, { location: "/other" }).end(),
  );
  const redirecting = await create(api, { url, retry_count: 0 });
  const closed = await create(api, { url: "http://127.0.0.1:1/", retry_count: 0 });
  await api.call("POST", "/workspaces", { body: { name: "New" } });
  assert.equal((await settled(api, redirecting.id, "failed")).error_reason, "REDIRECT_NOT_FOLLOWED");
  assert.equal(received.length, 1);
  assert.equal((await settled(api, closed.id, "failed")).error_reason, "CONNECTION_REFUSED");
});

test("private targets are refused when named, and when a name leads there", async (t) => {
  const api = await start(t, { allowPrivate: false });
  for (const url of [
    "http://127.0.0.1/x",
    "http://[::1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://localhost/",
    "http://169.254.169.254/",
    "http://2130706433/",
  ]) {
    const refused = await api.call("POST", "/webhooks", { body: { url } });
    assert.equal(refused.status, 422, url);
    assert.ok((refused.body["errors"] as Record<string, unknown>)["url"]);
  }
  const hook = await create(api, { url: "https://example.com/" });
  // A name that resolves to loopback on every machine, put there as if its DNS record had changed later.
  await api.platform.pool.query("update webhooks set url = 'http://localhost:1/' where id = $1", [hook.id]);
  await api.call("POST", "/workspaces", { body: { name: "New" } });
  const failed = await settled(api, hook.id, "failed");
  assert.deepEqual([failed.error_reason, failed.attempts], ["TARGET_NOT_ALLOWED", 1]);
});

test("a delivery is replayed, once for each replay id, and not while the webhook is inactive", async (t) => {
  const api = await start(t);
  const { url, received } = await startReceiver(t);
  const hook = await create(api, { url, events: ["workspace.created"] });
  await api.call("POST", "/workspaces", { body: { name: "New" } });
  const first = await settled(api, hook.id, "delivered");
  const path = `/webhooks/${hook.id}/deliveries/${first.id}/replay`;
  const again = await api.call("POST", path, { body: { replay_id: "r1" } });
  assert.equal((again.body["data"] as Delivery).replay_of, first.id);
  await waitFor("the replay", () => received.length === 2, waitMs);
  const repeated = await api.call("POST", path, { body: { replay_id: "r1" } });
  assert.equal(repeated.status, 409);
  assert.equal((repeated.body["error"] as { code: string }).code, "REPLAY_NOT_POSSIBLE");
  await api.call("PATCH", `/webhooks/${hook.id}`, { body: { state: "inactive" } });
  assert.equal((await api.call("POST", path)).status, 409);
  assert.equal((await api.call("POST", `/webhooks/${hook.id}/test`, { body: {} })).status, 409);
});

test("a test call answers with the delivery and its outcome", async (t) => {
  const api = await start(t);
  const { url, received } = await startReceiver(t);
  const hook = await create(api, { url, events: ["sandbox.created"] });
  const tested = await api.call("POST", `/webhooks/${hook.id}/test`, { body: {} });
  const delivery = tested.body["data"] as Delivery;
  assert.deepEqual(
    [delivery.state, delivery.event, delivery.response_status],
    ["delivered", "webhook.test", 200],
  );
  assert.equal(received.length, 1);
});

test("events are checked against the catalogue and the workspace", async (t) => {
  const api = await start(t, { work: false });
  const url = "https://example.com/";
  const codeOf = async (body: Record<string, unknown>) => {
    const answer = await api.call("POST", "/webhooks", { body });
    return [answer.status, (answer.body["error"] as { code: string } | undefined)?.code];
  };
  assert.deepEqual(await codeOf({ url, events: ["sandbox.exploded"] }), [422, "UNKNOWN_EVENT_TYPE"]);
  const workspace_id = ((await api.call("GET", "/workspaces")).body["data"] as { id: string }[])[0]!.id;
  assert.deepEqual(await codeOf({ url, events: ["api_key.created"], workspace_id }), [
    422,
    "EVENTS_NOT_WORKSPACE_SCOPABLE",
  ]);
  assert.deepEqual(await codeOf({ url, events: ["sandbox.*", "deployment.succeeded"], workspace_id }), [
    201,
    undefined,
  ]);
  assert.deepEqual(await codeOf({ url, headers: { "X-Miosa-Signature": "x" } }), [422, "VALIDATION_FAILED"]);
  assert.deepEqual(await codeOf({ url, retry_count: 11 }), [422, "VALIDATION_FAILED"]);
  const catalogue = (await api.call("GET", "/webhooks/events")).body;
  assert.ok((catalogue["events"] as string[]).includes("sandbox.ready"));
  assert.ok((catalogue["data"] as Record<string, string[]>)["sandbox"]!.includes("sandbox.created"));
  assert.equal((catalogue["signing"] as { header: string }).header, "X-Miosa-Signature");
});

test("a foreign tenant's webhook does not exist, and a missing scope is named", async (t) => {
  const api = await start(t, { work: false });
  const hook = await create(api, { url: "https://example.com/" });
  const other = await api.otherTenant();
  for (const [method, path] of [
    ["GET", ""],
    ["PATCH", ""],
    ["DELETE", ""],
    ["GET", "/deliveries"],
    ["POST", "/test"],
  ] as const) {
    const body = method === "PATCH" ? {} : undefined;
    assert.equal(
      (await api.call(method, `/webhooks/${hook.id}${path}`, { key: other.key, body })).status,
      404,
    );
  }
  const key = await api.key({ scopes: ["events:read"] });
  const refused = await api.call("POST", "/webhooks", { key, body: { url: "https://example.com/" } });
  assert.equal(
    (refused.body["error"] as { details: { required_scope: string } }).details.required_scope,
    "events:write",
  );
});

test("stored events are read in their order from any number on", async (t) => {
  const api = await start(t, { work: false });
  for (const name of ["a", "b", "c"]) await api.call("POST", "/workspaces", { body: { name } });
  type Page = {
    data: { seq: number; type: string; payload: { name: string } }[];
    next_cursor: number | null;
  };
  // Other tests' transactions on this server may hold the newest events back for a moment.
  const all = await waitFor(
    "three events",
    async () => {
      const page = (await api.call("GET", "/platform-events")).body as unknown as Page;
      return page.data.length === 3 && page;
    },
    waitMs,
  );
  assert.deepEqual(
    all.data.map(({ payload }) => payload.name),
    ["a", "b", "c"],
  );
  const first = (await api.call("GET", "/platform-events?limit=2")).body as unknown as Page;
  assert.equal(first.next_cursor, first.data[1]!.seq);
  const rest = (await api.call("GET", `/platform-events?after_seq=${first.next_cursor}`))
    .body as unknown as Page;
  assert.deepEqual([rest.data.length, rest.next_cursor], [1, null]);
  const other = await api.otherTenant();
  assert.deepEqual((await api.call("GET", "/platform-events", { key: other.key })).body["data"], []);
});
