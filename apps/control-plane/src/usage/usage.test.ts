import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test, type TestContext } from "node:test";
import { workspaceHandlers } from "../tenants/index.ts";
import { startTestApi, type TestApi } from "../testing-api.ts";
import type { Settings } from "../platform.ts";
import { resourceHandlers } from "../resources/index.ts";
import { usageHandlers } from "./index.ts";

const start = (t: TestContext, settings: Partial<Settings> = {}) =>
  startTestApi(t, {
    settings,
    handlers: (platform) => [
      ...usageHandlers(platform),
      ...workspaceHandlers(platform),
      ...resourceHandlers(platform),
    ],
  });

type Result = {
  external_user_id: string | null;
  workspace_id: string | null;
  sandbox_seconds: number;
  credit_cents: number;
  computer_seconds: null;
  bucket?: string;
};

async function insertSandbox(api: TestApi, user: string, workspaceId: string | null = null): Promise<string> {
  const id = randomUUID();
  await api.platform.pool.query(
    `insert into sandboxes (id, tenant_id, workspace_id, external_user_id, slug, template_id, size, cpu_count, memory_mb, disk_size_mb, persistent,
       always_on, timeout_sec, idle_timeout_sec, env_sealed, box_key, content)
     values ($1, $2, $3, $4, $5, 't', 'small', 1, 512, 1024, true, false, 3600, 0, '', $6, '{"type": "empty"}')`,
    [id, api.tenantId, workspaceId, user, id.slice(0, 8), `sb-${id}`],
  );
  return id;
}

/** Runs the sandbox as the life cycle does: by its column, at the times given. */
async function run(api: TestApi, id: string, from: string, seconds: number | null): Promise<void> {
  await api.platform.pool.query("update sandboxes set running_since = $2 where id = $1", [id, from]);
  if (seconds === null) return;
  await api.platform.pool.query("update sandboxes set running_since = null where id = $1", [id]);
  await api.platform.pool.query(
    "update sandbox_runs set ended_at = started_at + $2 * interval '1 second' where sandbox_id = $1 and started_at = $3",
    [id, seconds, from],
  );
}

const results = async (api: TestApi, query: string, key = api.operator) =>
  (await api.call("GET", `/usage?${query}`, { key })).body["results"] as Result[];

test("run time within the period is counted, per user and per day", async (t) => {
  const api = await start(t);
  const [ann, bob] = [await insertSandbox(api, "ann"), await insertSandbox(api, "bob")];
  await run(api, ann, "2026-01-10T23:00:00Z", 7200);
  await run(api, ann, "2026-01-20T00:00:00Z", 60);
  await run(api, bob, "2026-01-09T23:59:00Z", 120);
  const period = "start=2026-01-10T00:00:00Z&end=2026-01-12T00:00:00Z";
  const total = await results(api, `${period}&group_by=external_user_id`);
  assert.deepEqual(
    total.map((row) => [row.external_user_id, row.sandbox_seconds, row.credit_cents, row.computer_seconds]),
    [
      ["ann", 7200, 0, null],
      ["bob", 60, 0, null],
    ],
  );
  const daily = await results(api, `${period}&group_by=external_user_id&bucket=day&external_user_id=ann`);
  assert.deepEqual(
    daily.map((row) => [row.bucket, row.sandbox_seconds]),
    [
      ["2026-01-10", 3600],
      ["2026-01-11", 3600],
    ],
  );
});

test("a sandbox that runs counts up to now, and stops counting when it pauses", async (t) => {
  const api = await start(t);
  const id = await insertSandbox(api, "ann");
  await run(api, id, new Date(Date.now() - 600_000).toISOString(), null);
  const [running] = await results(api, "period=1d");
  assert.ok(
    running!.sandbox_seconds >= 600 && running!.sandbox_seconds < 660,
    String(running!.sandbox_seconds),
  );
  await api.platform.pool.query("update sandboxes set running_since = null where id = $1", [id]);
  const [before, after] = [await results(api, "period=1d"), await results(api, "period=1d")];
  assert.equal(before[0]!.sandbox_seconds, after[0]!.sandbox_seconds);
  const sessions = (await api.call("GET", "/usage/sessions")).body["data"] as {
    resource_id: string;
    ended_at: string | null;
  }[];
  assert.deepEqual(
    sessions.map((one) => [one.resource_id, one.ended_at !== null]),
    [[id, true]],
  );
});

test("answers have no top-level key that a client would take for an envelope", async (t) => {
  const api = await start(t);
  for (const path of ["/usage", "/credits/balance", "/credits/usage"]) {
    const { status, body } = await api.call("GET", path);
    assert.equal(status, 200, path);
    for (const name of ["data", "usage", "summary", "sessions", "events", "items", "audit_log"])
      assert.equal(name in body, false, path + name);
  }
  const summary = (await api.call("GET", "/usage/summary")).body["data"] as Record<string, unknown>;
  assert.deepEqual(
    [summary["total_credits"], summary["computer_seconds"], summary["sandbox_seconds"]],
    [0, null, 0],
  );
  const { body } = await api.call("GET", "/credits/transactions?page=2&per_page=10");
  assert.deepEqual(body, { data: [], meta: { total: 0, page: 2, per_page: 10 } });
  assert.equal((await api.call("GET", "/credits/balance")).body["balance"], 0);
});

test("usage of others is not seen, bad periods and missing scopes are refused", async (t) => {
  const api = await start(t);
  const workspace = ((await api.call("GET", "/workspaces")).body["data"] as { id: string }[])[0]!.id;
  await run(api, await insertSandbox(api, "in", workspace), new Date(Date.now() - 60_000).toISOString(), 10);
  await run(api, await insertSandbox(api, "out"), new Date(Date.now() - 60_000).toISOString(), 10);
  const bound = await api.key({ workspace_id: workspace });
  assert.deepEqual(
    (await results(api, "period=1d", bound)).map((row) => row.external_user_id),
    ["in"],
  );
  const other = await api.otherTenant();
  assert.deepEqual(await results(api, "period=1d", other.key), []);
  for (const bad of ["period=forever", "group_by=color", "start=2026-02-01&end=2026-01-01"]) {
    assert.equal((await api.call("GET", `/usage?${bad}`)).status, 422, bad);
  }
  const key = await api.key({ scopes: ["sandboxes:read"] });
  const refused = await api.call("GET", "/usage", { key });
  assert.equal(
    (refused.body["error"] as { details: { required_scope: string } }).details.required_scope,
    "billing:read",
  );
});

test("with prices, what ran has its cost: sandboxes, databases and instances alike", async (t) => {
  const api = await start(t, { prices: { vcpu_hour: 10, memory_gib_hour: 4, instance_hour: 7 } });
  const { pool } = api.platform;
  const sandbox = await insertSandbox(api, "ann");
  await run(api, sandbox, "2026-01-10T00:00:00Z", 36_000);
  const [database, deployment, instance] = [randomUUID(), randomUUID(), randomUUID()];
  await pool.query(
    `insert into databases (id, tenant_id, name, engine, engine_version, cpu_count, memory_mb, storage_mb, host_key, external_user_id)
     values ($1, $2, 'shop', 'postgresql', '16', 1, 2048, 1024, $3, 'ann')`,
    [database, api.tenantId, `db-${database}`],
  );
  const state = (value: string) =>
    pool.query("update databases set state = $2 where id = $1", [database, value]);
  for (const value of ["running", "error", "running", "stopped", "stopped"]) await state(value);
  await pool.query(
    "insert into deployments (id, tenant_id, name, slug, external_user_id) values ($1, $2, 'app', 'app', 'ann')",
    [deployment, api.tenantId],
  );
  await pool.query(
    "insert into instances (id, deployment_id, release_id, box_key, config_version) values ($1, $2, $1, $3, 1)",
    [instance, deployment, `in-${instance}`],
  );
  await pool.query("update instances set state = 'healthy' where id = $1", [instance]);
  await pool.query("delete from instances where id = $1", [instance]);
  const runs = await pool.query(
    "select resource_type, ended_at is not null as ended from metered_runs order by resource_type",
  );
  assert.deepEqual(runs.rows, [
    { resource_type: "database", ended: true },
    { resource_type: "deployment", ended: true },
  ]);
  await pool.query(
    "update metered_runs set started_at = '2026-01-10T00:00:00Z', ended_at = '2026-01-10T10:00:00Z'",
  );
  const get = async (path: string) => (await api.call("GET", path, { key: api.operator })).body;
  const period = "period_start=2026-01-01T00:00:00Z&period_end=2026-02-01T00:00:00Z";
  // Ten hours each: a core and half a GiB, a core and two GiB, an instance.
  assert.equal((await get(`/credits/usage?${period}`))["total_credits"], 120 + 180 + 70);
  assert.equal((await get("/credits/balance"))["lifetime_spent"], 370);
  const ofSandboxes = await results(
    api,
    "start=2026-01-01T00:00:00Z&end=2026-02-01T00:00:00Z&group_by=external_user_id",
  );
  assert.deepEqual(
    ofSandboxes.map(({ external_user_id, credit_cents }) => [external_user_id, credit_cents]),
    [["ann", 120]],
  );
  const sessions = (await get("/usage/sessions"))["data"] as { credit_cents: number }[];
  assert.deepEqual(
    sessions.map(({ credit_cents }) => credit_cents),
    [120],
  );
  await pool.query("update metered_runs set started_at = now() - interval '10 hours', ended_at = now()");
  const all = (await get("/resources"))["data"] as {
    type: string;
    cost: { cents: number; running_seconds: number };
  }[];
  assert.deepEqual(
    all
      .filter(({ type }) => type !== "sandbox")
      .map(({ type, cost }) => [type, cost.cents, cost.running_seconds]),
    [
      ["database", 180, 36_000],
      ["deployment", 70, 36_000],
    ],
  );
});
