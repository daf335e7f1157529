import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";
import type { EgressPolicy } from "@platform/host-api";
import { startTestApi, type TestApi } from "../testing-api.ts";
import { egressHandlers, syncPendingEgress } from "./index.ts";

/** Takes the place of a machine: keeps the last policy of each box, as the host API gets it. */
async function startHost(t: TestContext) {
  const policies = new Map<string, EgressPolicy>();
  const state = { isDown: false, attempts: [] as unknown[] };
  const server = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on("data", (part: Buffer) => parts.push(part));
    request.on("end", () => {
      const key = request.url!.split("/")[2]!;
      const answer = (status: number, body: unknown) =>
        response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
      if (state.isDown) return answer(500, { error: { code: "INTERNAL", message: "down" } });
      if (request.url!.endsWith("/egress")) return answer(200, state.attempts);
      const { egress } = JSON.parse(Buffer.concat(parts).toString()) as { egress: EgressPolicy };
      policies.set(key, egress);
      return answer(200, {
        key,
        purpose: "sandbox",
        state: "running",
        isolation: null,
        failure: null,
        createdAt: "",
        bootMs: null,
        bootPath: null,
        specHash: "",
      });
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return {
    policies,
    state,
    address: { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, token: "t" },
  };
}

async function start(t: TestContext) {
  const host = await startHost(t);
  const api = await startTestApi(t, { handlers: egressHandlers, host: host.address });
  return { api, host };
}

async function insertSandbox(
  api: TestApi,
  fields: { tenantId?: string; state?: string; metadata?: unknown } = {},
) {
  const id = randomUUID();
  await api.platform.pool.query(
    `insert into sandboxes (id, tenant_id, slug, template_id, size, cpu_count, memory_mb, disk_size_mb, persistent, always_on,
       timeout_sec, idle_timeout_sec, env_sealed, box_key, content, state, metadata)
     values ($1, $2, $3, 't', 'small', 1, 512, 1024, true, false, 3600, 0, '', $4, '{"type": "empty"}', $5, $6)`,
    [
      id,
      fields.tenantId ?? api.tenantId,
      id.slice(0, 8),
      `sb-${id}`,
      fields.state ?? "running",
      fields.metadata ?? {},
    ],
  );
  return { id, key: `sb-${id}` };
}

type Item = { id: string; mode: string; default_action: string };
const post = async (api: TestApi, path: string, body: Record<string, unknown>) => {
  const answer = await api.call("POST", path, { body });
  assert.equal(answer.status, 201, JSON.stringify(answer.body));
  return answer.body["data"] as Item;
};

test("a policy bound to a sandbox is in force when the call returns", async (t) => {
  const { api, host } = await start(t);
  const [bound, other] = [await insertSandbox(api), await insertSandbox(api)];
  const policy = await post(api, "/egress/policies", {
    name: "tight",
    resource_type: "sandbox",
    resource_id: bound.id,
  });
  assert.deepEqual([policy.mode, policy.default_action], ["enforce", "deny"]);
  assert.equal(host.policies.get(bound.key)?.mode, "deny-all");
  assert.equal(host.policies.has(other.key), false);

  const rule = await post(api, "/egress/allowlist", { host: "*.Example.com", policy_id: policy.id });
  await post(api, "/egress/allowlist", {
    host: "203.0.113.0/24",
    effect: "deny",
    resource_type: "sandbox",
    resource_id: bound.id,
  });
  const now = host.policies.get(bound.key)!;
  assert.deepEqual([now.allowedDomains, now.deniedCidrs], [["*.example.com"], ["203.0.113.0/24"]]);

  await api.call("DELETE", `/egress/allowlist/${rule.id}`);
  assert.deepEqual(host.policies.get(bound.key)!.allowedDomains, []);
  await api.call("PATCH", "/egress/policies", {
    body: { resource_type: "sandbox", resource_id: bound.id, mode: "audit_only" },
  });
  assert.equal(host.policies.get(bound.key)!.mode, "allow-all");
  await api.call("PATCH", `/egress/policies/${policy.id}`, { body: { mode: "enforce" } });
  assert.equal(host.policies.get(bound.key)!.mode, "deny-all");
});

test("a policy and a sandbox's own network policy never widen each other", async (t) => {
  const { api, host } = await start(t);
  const sandbox = await insertSandbox(api, {
    metadata: {
      network_policy: {
        mode: "deny-all",
        allowed_domains: ["a.example", "b.other"],
        denied_cidrs: ["198.51.100.0/24"],
      },
    },
  });
  const policy = await post(api, "/egress/policies", { name: "p", resource_id: sandbox.id });
  for (const name of ["*.example", "c.third"])
    await post(api, "/egress/allowlist", { host: name, policy_id: policy.id });
  const { mode, allowedDomains, deniedCidrs } = host.policies.get(sandbox.key)!;
  assert.deepEqual([mode, allowedDomains, deniedCidrs], ["deny-all", ["a.example"], ["198.51.100.0/24"]]);
});

test("a policy without a resource covers every sandbox of the tenant but those with their own", async (t) => {
  const { api, host } = await start(t);
  const other = await api.otherTenant();
  const [plain, special] = [await insertSandbox(api), await insertSandbox(api)];
  const foreign = await insertSandbox(api, { tenantId: other.tenantId });
  await post(api, "/egress/policies", { name: "own", resource_id: special.id, default_effect: "allow" });
  await post(api, "/egress/policies", { name: "all" });
  assert.equal(host.policies.get(plain.key)?.mode, "deny-all");
  assert.equal(host.policies.get(special.key)?.mode, "allow-all");
  assert.equal(host.policies.has(foreign.key), false);
  assert.equal((await api.call("POST", "/egress/policies", { body: { name: "second" } })).status, 409);
});

test("what the machine could not be told is said so, and put in force later", async (t) => {
  const { api, host } = await start(t);
  const [sandbox, starting] = [await insertSandbox(api), await insertSandbox(api, { state: "provisioning" })];
  host.state.isDown = true;
  const failed = await api.call("POST", "/egress/policies", { body: { name: "p" } });
  assert.equal(failed.status, 503);
  host.state.isDown = false;
  await syncPendingEgress(api.platform);
  assert.equal(host.policies.get(sandbox.key)?.mode, "deny-all");
  assert.equal(host.policies.has(starting.key), false);
  await api.platform.pool.query("update sandboxes set state = 'running' where id = $1", [starting.id]);
  await syncPendingEgress(api.platform);
  assert.equal(host.policies.get(starting.key)?.mode, "deny-all");
  assert.equal((await api.platform.pool.query("select * from egress_pending")).rowCount, 0);
});

test("what cannot be enforced is refused, not stored", async (t) => {
  const { api } = await start(t);
  const cases: [Record<string, unknown>, string][] = [
    [{ host: "a.example", methods: ["GET"] }, "methods"],
    [{ host: "a.example", path_glob: "/v1/*" }, "path_glob"],
    [{ host: "a.example", port: 443 }, "port"],
    [{ host: "not a host" }, "host"],
    [{ host: "10.0.0.0/99" }, "host"],
    [{ host: "999.1.1.1" }, "host"],
  ];
  for (const [body, field] of cases) {
    const answer = await api.call("POST", "/egress/allowlist", { body });
    assert.equal(answer.status, 422, JSON.stringify(body));
    assert.ok((answer.body["errors"] as Record<string, unknown>)[field], JSON.stringify(answer.body));
  }
});

test("attempts are listed as the machine saw them, and an absent machine is no empty list", async (t) => {
  const { api, host } = await start(t);
  const sandbox = await insertSandbox(api);
  host.state.attempts = [
    { at: "2026-01-01T00:00:00.000Z", host: "ok.example", port: 443, outcome: "ALLOWED" },
    { at: "2026-01-01T00:00:01.000Z", host: "bad.example", port: 443, outcome: "EGRESS_DENIED" },
  ];
  type Row = { host: string; action: string; sandbox_id: string };
  const rows = (await api.call("GET", "/egress/audit")).body["data"] as Row[];
  assert.deepEqual(
    rows.map((row) => [row.host, row.action, row.sandbox_id]),
    [
      ["bad.example", "deny", sandbox.id],
      ["ok.example", "allow", sandbox.id],
    ],
  );
  host.state.isDown = true;
  assert.equal((await api.call("GET", "/egress/audit")).status, 503);
});

test("foreign tenants' sandboxes, policies and rules do not exist", async (t) => {
  const { api } = await start(t);
  const other = await api.otherTenant();
  const sandbox = await insertSandbox(api);
  const policy = await post(api, "/egress/policies", { name: "p", resource_id: sandbox.id });
  const rule = await post(api, "/egress/allowlist", { host: "a.example", policy_id: policy.id });
  const asOther = (method: string, path: string, body?: Record<string, unknown>) =>
    api.call(method, path, { key: other.key, body }).then(({ status }) => status);
  assert.equal(await asOther("POST", "/egress/policies", { name: "x", resource_id: sandbox.id }), 404);
  assert.equal(await asOther("PATCH", `/egress/policies/${policy.id}`, { mode: "audit_only" }), 404);
  assert.equal(await asOther("POST", "/egress/allowlist", { host: "x.example", policy_id: policy.id }), 404);
  assert.equal(await asOther("DELETE", `/egress/allowlist/${rule.id}`), 404);
  assert.equal(await asOther("GET", `/egress/audit?sandbox_id=${sandbox.id}`), 404);
  const key = await api.key({ scopes: ["egress:read"] });
  const refused = await api.call("POST", "/egress/policies", { key, body: { name: "x" } });
  assert.equal(
    (refused.body["error"] as { details: { required_scope: string } }).details.required_scope,
    "egress:write",
  );
});
