import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { startTestApi, type TestApi } from "../testing-api.ts";
import { projectHandlers, workspaceHandlers } from "./index.ts";

const start = (t: Parameters<typeof startTestApi>[0]) =>
  startTestApi(t, { handlers: (platform) => [...workspaceHandlers(platform), ...projectHandlers(platform)] });

type Item = { id: string; slug: string; name: string; is_default: boolean; workspace_id: string };

const makeWorkspace = async (api: TestApi, name: string) =>
  (await api.call("POST", "/workspaces", { body: { name } })).body["data"] as Item;

async function insertSandbox(api: TestApi, workspaceId: string): Promise<string> {
  const id = randomUUID();
  await api.platform.pool.query(
    `insert into sandboxes (id, tenant_id, workspace_id, slug, template_id, size, cpu_count, memory_mb, disk_size_mb, persistent, always_on,
       timeout_sec, idle_timeout_sec, env_sealed, box_key, content, state)
     values ($1, $2, $3, $4, 't', 'small', 1, 512, 1024, true, false, 3600, 0, '', $5, '{"type": "empty"}', 'running')`,
    [id, api.tenantId, workspaceId, id.slice(0, 8), `sb-${id}`],
  );
  return id;
}

test("a workspace is created, found by id and slug, changed and deleted", async (t) => {
  const api = await start(t);
  const made = await makeWorkspace(api, "Team Blue");
  assert.equal(made.slug, "team-blue");
  for (const id of [made.id, made.slug]) {
    assert.equal(((await api.call("GET", `/workspaces/${id}`)).body["data"] as Item).id, made.id);
  }
  const changed = await api.call("PATCH", `/workspaces/${made.id}`, { body: { name: "Team Red" } });
  assert.equal((changed.body["data"] as Item).name, "Team Red");
  assert.equal((await api.call("POST", "/workspaces", { body: { name: "team blue" } })).status, 409);
  assert.equal((await api.call("DELETE", `/workspaces/${made.id}`)).status, 200);
  assert.equal((await api.call("GET", `/workspaces/${made.id}`)).status, 404);
});

test("a workspace that holds a sandbox is deleted only with force, and a dry run changes nothing", async (t) => {
  const api = await start(t);
  const made = await makeWorkspace(api, "Full");
  const sandbox = await insertSandbox(api, made.id);
  const inventory = (await api.call("GET", `/workspaces/${made.id}/inventory`)).body["data"] as {
    sandboxes: Item[];
    counts: Record<string, number>;
  };
  assert.deepEqual(
    inventory.sandboxes.map(({ id }) => id),
    [sandbox],
  );
  assert.deepEqual([inventory.counts["sandboxes"], inventory.counts["projects"]], [1, 1]);

  assert.equal((await api.call("DELETE", `/workspaces/${made.id}`)).status, 409);
  const dry = (await api.call("DELETE", `/workspaces/${made.id}?force=true&dry_run=true`)).body["data"];
  assert.equal((dry as { would_delete: boolean }).would_delete, true);
  const desired = async () =>
    (await api.platform.pool.query("select desired from sandboxes where id = $1", [sandbox])).rows[0]
      ?.desired as string;
  assert.equal(await desired(), "running");

  assert.equal((await api.call("DELETE", `/workspaces/${made.id}?force=true`)).status, 200);
  assert.equal(await desired(), "destroyed");
  assert.equal((await api.call("GET", `/workspaces/${made.id}`)).status, 404);
});

test("the default workspace stays", async (t) => {
  const api = await start(t);
  const all = (await api.call("GET", "/workspaces")).body["data"] as Item[];
  assert.equal(all[0]!.is_default, true);
  assert.equal((await api.call("DELETE", `/workspaces/${all[0]!.id}?force=true`)).status, 409);
});

test("a key bound to a workspace sees only that one", async (t) => {
  const api = await start(t);
  const [mine, other] = [await makeWorkspace(api, "Mine"), await makeWorkspace(api, "Elsewhere")];
  const key = await api.key({ workspace_id: mine.id });
  const seen = (await api.call("GET", "/workspaces", { key })).body["data"] as Item[];
  assert.deepEqual(
    seen.map(({ id }) => id),
    [mine.id],
  );
  for (const [method, path] of [
    ["GET", ""],
    ["PATCH", ""],
    ["DELETE", ""],
    ["GET", "/inventory"],
  ] as const) {
    const body = method === "PATCH" ? {} : undefined;
    assert.equal((await api.call(method, `/workspaces/${other.id}${path}`, { key, body })).status, 404);
  }
  assert.equal((await api.call("GET", `/projects?workspace_id=${other.id}`, { key })).status, 404);
  assert.equal(
    (await api.call("POST", "/projects", { key, body: { name: "x", workspace_id: other.id } })).status,
    404,
  );
  assert.equal((await api.call("POST", "/workspaces", { key, body: { name: "new" } })).status, 403);
  await api.call("DELETE", `/workspaces/${mine.id}`);
  assert.equal((await api.call("GET", "/workspaces", { key })).status, 401);
});

test("projects are created in a workspace and found again", async (t) => {
  const api = await start(t);
  const workspace = await makeWorkspace(api, "Home");
  const made = await api.call("POST", "/projects", { body: { name: "Shop", workspace_id: workspace.id } });
  assert.equal(made.status, 201);
  const project = made.body["data"] as Item;
  assert.deepEqual([project.slug, project.workspace_id, project.is_default], ["shop", workspace.id, false]);
  assert.equal((await api.call("GET", `/projects/${project.id}`)).status, 200);
  const listed = (await api.call("GET", `/projects?workspace_id=${workspace.id}`)).body["data"] as Item[];
  assert.deepEqual(listed.map(({ slug }) => slug).sort(), ["default", "shop"]);
  assert.equal(
    (await api.call("POST", "/projects", { body: { name: "shop", workspace_id: workspace.id } })).status,
    409,
  );
});

test("refusals name the scope, the field or nothing at all", async (t) => {
  const api = await start(t);
  const key = await api.key({ scopes: ["projects:read"] });
  const forbidden = await api.call("POST", "/workspaces", { key, body: { name: "x" } });
  assert.equal(forbidden.status, 403);
  assert.equal(
    (forbidden.body["error"] as { details: { required_scope: string } }).details.required_scope,
    "projects:write",
  );
  const invalid = await api.call("POST", "/workspaces", { body: {} });
  assert.equal(invalid.status, 422);
  assert.ok((invalid.body["errors"] as Record<string, unknown>)["name"]);
  const other = await api.otherTenant();
  const mine = await makeWorkspace(api, "Mine");
  assert.equal((await api.call("GET", `/workspaces/${mine.id}`, { key: other.key })).status, 404);
});
