import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { startTestApi } from "../testing-api.ts";
import { workspaceHandlers } from "../tenants/index.ts";
import { actionOf } from "./action.ts";
import { auditHandlers, AuditWriter } from "./index.ts";

type Entry = {
  action: string;
  type: string;
  status: string;
  actor: { id: string; type: string };
  resource: { type: string; id: string };
  metadata: Record<string, unknown>;
};

async function start(t: TestContext) {
  let writer: AuditWriter | undefined;
  const api = await startTestApi(t, {
    handlers: (platform) => [...auditHandlers(platform), ...workspaceHandlers(platform)],
    audit: (platform) => (writer = new AuditWriter(platform)).audit,
  });
  const log = async (filter = "") => {
    await writer!.flush();
    return (await api.call("GET", `/audit-log${filter}`)).body as unknown as {
      data: Entry[];
      next_cursor: string | null;
    };
  };
  return { api, log, writer: writer! };
}

test("actions are named after resource and deed", () => {
  const name = (method: "POST" | "DELETE" | "PATCH" | "PUT", path: string) =>
    actionOf({ method, path }).action;
  assert.equal(name("POST", "/sandboxes"), "sandboxes.create");
  assert.equal(name("POST", "/sandboxes/:id/pause"), "sandboxes.pause");
  assert.equal(name("POST", "/sandboxes/:id/snapshots"), "sandboxes.snapshots.create");
  assert.equal(name("POST", "/egress/allowlist"), "egress.allowlist.create");
  assert.equal(name("POST", "/tenant/preview-domain/verify"), "tenant.preview_domain.verify");
  assert.equal(name("PATCH", "/sandboxes/:id"), "sandboxes.update");
  assert.equal(name("DELETE", "/api-keys/:id"), "api_keys.delete");
  assert.equal(name("POST", "/webhooks/:id/deliveries/:did/replay"), "webhooks.deliveries.replay");
  assert.equal(actionOf({ method: "POST", path: "/sandboxes" }).resourceType, "sandbox");
});

test("a change is logged with who, what and the outcome, and without a word of its body", async (t) => {
  const { api, log } = await start(t);
  const made = await api.call("POST", "/api-keys", {
    body: { name: "audited" },
    headers: { "idempotency-key": "once" },
  });
  const { id, key } = made.body["data"] as { id: string; key: string };
  await api.call("GET", "/workspaces");
  const { data } = await log();
  assert.deepEqual(
    data.map((entry) => [entry.action, entry.type, entry.status, entry.resource.type, entry.resource.id]),
    [["api_keys.create", "api_keys.create", "success", "api_key", id]],
  );
  const stored = await api.platform.pool.query("select * from audit_log");
  assert.equal(JSON.stringify(stored.rows).includes(key), false);
});

test("the log is filtered and read page by page", async (t) => {
  const { api, log } = await start(t);
  for (const name of ["a", "b", "c"]) await api.call("POST", "/workspaces", { body: { name } });
  await api.key({ scopes: ["events:read"] });
  assert.equal((await log("?action=workspaces.create")).data.length, 3);
  assert.equal((await log("?category=api_keys")).data.length, 1);
  assert.equal((await log("?resource_type=nothing")).data.length, 0);
  const first = await log("?limit=3");
  const second = await log(`?limit=3&after=${first.next_cursor}`);
  assert.equal(second.data.length, 1);
  assert.equal(second.next_cursor, null);
  assert.equal(new Set([...first.data, ...second.data].map(({ resource }) => resource.id)).size, 4);
  assert.equal((await api.call("GET", "/audit-log?after=x")).status, 422);
});

test("another tenant, and a key without the scope, see nothing", async (t) => {
  const { api, log } = await start(t);
  await api.call("POST", "/workspaces", { body: { name: "secret" } });
  await log();
  const other = await api.otherTenant();
  assert.deepEqual((await api.call("GET", "/audit-log", { key: other.key })).body["data"], []);
  const key = await api.key({ scopes: ["sandboxes:read"] });
  const refused = await api.call("GET", "/audit-log", { key });
  assert.equal(refused.status, 403);
  assert.equal(
    (refused.body["error"] as { details: { required_scope: string } }).details.required_scope,
    "events:read",
  );
});

test("an orderly stop loses no entry", async (t) => {
  const { api, writer } = await start(t);
  writer.start();
  await api.call("POST", "/workspaces", { body: { name: "last" } });
  await writer.stop();
  const { rows } = await api.platform.pool.query("select action from audit_log");
  assert.deepEqual(rows, [{ action: "workspaces.create" }]);
});
