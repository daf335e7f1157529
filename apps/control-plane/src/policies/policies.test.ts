import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { domainHandlers } from "../domains/index.ts";
import { scopedTokenHandlers } from "../keys/index.ts";
import { sandboxHandlers } from "../sandboxes/index.ts";
import { startTestApi, type TestApi } from "../testing-api.ts";
import { workspaceHandlers } from "../tenants/index.ts";
import { policyHandlers } from "./index.ts";

const start = (t: TestContext) =>
  startTestApi(t, {
    settings: { prices: { vcpu_hour: 100, memory_gib_hour: 0, instance_hour: 0 } },
    handlers: (platform) => [
      ...policyHandlers(platform),
      ...scopedTokenHandlers(platform),
      ...sandboxHandlers(platform),
      ...workspaceHandlers(platform),
      ...domainHandlers(platform),
    ],
  });

const problem = ({ status, body }: { status: number; body: Record<string, unknown> }) => {
  const { code, details } = (body["error"] ?? {}) as { code?: string; details?: Record<string, unknown> };
  return { status, code, details };
};
const data = ({ body }: { body: Record<string, unknown> }) => body["data"] as Record<string, unknown>;
const create = (api: TestApi, body: Record<string, unknown> = {}) => api.call("POST", "/sandboxes", { body });

test("of many creates at once no more pass than the user's limit allows, and a deleted one makes room", async (t) => {
  const api = await start(t);
  assert.equal((await api.call("PUT", "/quotas/external/ann", { body: { max_sandboxes: 3 } })).status, 200);
  const answers = await Promise.all(
    Array.from({ length: 12 }, () => create(api, { external_user_id: "ann" })),
  );
  assert.deepEqual(answers.map(({ status }) => status).sort(), [
    ...Array<number>(3).fill(201),
    ...Array<number>(9).fill(409),
  ]);
  const refused = problem(answers.find(({ status }) => status === 409)!);
  assert.equal(refused.code, "QUOTA_EXCEEDED");
  assert.deepEqual(
    [refused.details!["quota"], refused.details!["limit"], refused.details!["source"]],
    ["max_sandboxes", 3, "user"],
  );
  assert.equal((await create(api, { external_user_id: "bob" })).status, 201, "another user is not concerned");
  assert.deepEqual(
    (data(await api.call("GET", "/quotas/external/ann"))["usage"] as { total_sandboxes: number })
      .total_sandboxes,
    3,
  );
  await api.platform.pool.query(
    "update sandboxes set desired = 'destroyed', state = 'destroyed' where id = (select id from sandboxes where external_user_id = 'ann' limit 1)",
  );
  assert.equal((await create(api, { external_user_id: "ann" })).status, 201);
  await api.call("DELETE", "/quotas/external/ann");
  assert.equal((await create(api, { external_user_id: "ann" })).status, 201, "without a limit");
});

test("the nearest policy holds, field by field, and says where it comes from", async (t) => {
  const api = await start(t);
  const tenant = { quotas: { max_concurrent: 9, max_sandboxes: 20 }, features: { snapshot_enabled: false } };
  await api.call("PUT", "/tenant/policy", { body: tenant });
  const made = data(await api.call("POST", "/workspaces", { body: { name: "Lab", slug: "lab" } }));
  await api.call("PUT", "/workspaces/lab/policy", { body: { quotas: { max_concurrent: 5 } } });
  await api.call("PUT", "/external-users/ann/policy", {
    body: { quotas: { max_concurrent: null, max_sandboxes: 2 } },
  });
  assert.deepEqual(data(await api.call("GET", "/tenant/policy")), tenant);
  const effective = data(
    await api.call("GET", `/external-users/ann/effective-policy?workspace_id=${String(made["id"])}`),
  );
  const quotas = effective["quotas"] as Record<string, { value: unknown; source: string }>;
  assert.deepEqual(quotas["max_concurrent"], { value: 5, source: "workspace" });
  assert.deepEqual(quotas["max_sandboxes"], { value: 2, source: "user" });
  assert.deepEqual(quotas["max_storage_gb"], { value: null, source: "platform" });
  assert.deepEqual((effective["features"] as typeof quotas)["snapshot_enabled"], {
    value: false,
    source: "tenant",
  });
  await api.call("DELETE", "/external-users/ann/policy");
  const again = data(await api.call("GET", "/effective-policy?external_user_id=ann"));
  assert.deepEqual((again["quotas"] as typeof quotas)["max_sandboxes"], { value: 20, source: "tenant" });
});

test("what a policy takes away is refused with its name", async (t) => {
  const api = await start(t);
  await api.call("PUT", "/external-users/ann/policy", {
    body: { permissions: { can_create_sandbox: false, can_use_custom_domains: false } },
  });
  const sandbox = problem(await create(api, { external_user_id: "ann" }));
  assert.deepEqual([sandbox.status, sandbox.code], [403, "FORBIDDEN"]);
  assert.equal(sandbox.details!["policy"], "permissions.can_create_sandbox");
  const domain = await api.call("POST", "/domains", {
    body: { hostname: "ann.example.org", external_user_id: "ann" },
  });
  assert.deepEqual(
    [domain.status, problem(domain).details!["policy"]],
    [403, "permissions.can_use_custom_domains"],
  );
  assert.equal((await create(api)).status, 201);
});

test("disks and money have their limits too", async (t) => {
  const api = await start(t);
  await api.call("PUT", "/tenant/policy", { body: { quotas: { max_storage_gb: 25 } } });
  const big = { cpu_count: 1, memory_mb: 512, disk_size_mb: 20 * 1024 };
  assert.equal((await create(api, big)).status, 201);
  assert.equal(problem(await create(api, big)).details!["quota"], "max_storage_gb");
  await api.call("PUT", "/tenant/policy", {
    body: { quotas: { max_credit_cents: 0 }, billing: { enforce_credit_limit: true } },
  });
  const broke = problem(await create(api));
  assert.deepEqual([broke.status, broke.code], [402, "INSUFFICIENT_CREDITS"]);
  await api.call("PUT", "/tenant/policy", { body: { quotas: { max_credit_cents: 0 } } });
  assert.equal((await create(api)).status, 201, "a limit that is not enforced only tells");
});

test("keys that a policy binds cannot change it; unknown fields and users' own limits are told", async (t) => {
  const api = await start(t);
  const made = await api.call("POST", "/api-keys/scoped", { body: { external_user_id: "ann" } });
  assert.equal(made.status, 201, JSON.stringify(made.body));
  const key = data(made)["key"] as string;
  for (const [method, path] of [
    ["PUT", "/tenant/policy"],
    ["PUT", "/external-users/ann/policy"],
    ["PUT", "/quotas/external/ann"],
    ["DELETE", "/quotas/external/ann"],
    ["GET", "/quotas/external/bob"],
  ] as const)
    assert.equal(
      (await api.call(method, path, { key, ...(method === "PUT" ? { body: {} } : {}) })).status,
      403,
      path,
    );
  assert.equal((await api.call("GET", "/quotas/external/ann", { key })).status, 200);
  const unknown = problem(await api.call("PUT", "/tenant/policy", { body: { quotas: { max_cats: 1 } } }));
  assert.deepEqual([unknown.status, unknown.code], [422, "VALIDATION_FAILED"]);
});
