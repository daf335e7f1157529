import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { runtimeEnvironment } from "../sandboxes/index.ts";
import { projectHandlers, workspaceHandlers } from "../tenants/index.ts";
import { startTestApi } from "../testing-api.ts";
import { runtimeEnvHandlers } from "./index.ts";

const start = (t: TestContext) =>
  startTestApi(t, {
    handlers: (platform) => [
      ...runtimeEnvHandlers(platform),
      ...workspaceHandlers(platform),
      ...projectHandlers(platform),
    ],
  });

type Item = { id: string; name: string; preview: string; scope: string };

test("a value reaches new resources, the narrower scope wins, and no answer shows it", async (t) => {
  const api = await start(t);
  const workspace = ((await api.call("GET", "/workspaces")).body["data"] as Item[])[0]!.id;
  const project = ((await api.call("GET", "/projects")).body["data"] as Item[])[0]!.id;
  const answers = [
    await api.call("POST", "/runtime-env", { body: { name: "TOKEN", value: "tenant-wide-value-1" } }),
    await api.call("POST", "/runtime-env", {
      body: { name: "TOKEN", value: "workspace-value-22", scope: "workspace", workspace_id: workspace },
    }),
    await api.call("POST", "/runtime-env", {
      body: {
        name: "ONLY",
        value: "project-value-333",
        scope: "project",
        project_id: project,
        target: "sandbox",
      },
    }),
    await api.call("GET", "/runtime-env"),
  ];
  assert.deepEqual(
    answers.map(({ status }) => status),
    [201, 201, 201, 200],
  );
  assert.equal(/tenant-wide-value|workspace-value|project-value/.test(JSON.stringify(answers)), false);
  const owner = { tenant_id: api.tenantId, workspace_id: workspace, project_id: project };
  assert.deepEqual(await runtimeEnvironment(api.platform, "sandbox", owner), {
    TOKEN: "workspace-value-22",
    ONLY: "project-value-333",
  });
  assert.deepEqual(await runtimeEnvironment(api.platform, "deployment", { ...owner, workspace_id: null }), {
    TOKEN: "tenant-wide-value-1",
  });
});

test("the same name in the same scope is replaced; a deleted one is gone", async (t) => {
  const api = await start(t);
  const first = (await api.call("POST", "/runtime-env", { body: { name: "A", value: "1" } })).body[
    "data"
  ] as Item;
  const second = (await api.call("POST", "/runtime-env", { body: { name: "A", value: "2" } })).body[
    "data"
  ] as Item;
  assert.equal(first.id, second.id);
  const owner = { tenant_id: api.tenantId, workspace_id: null, project_id: null };
  assert.deepEqual(await runtimeEnvironment(api.platform, "sandbox", owner), { A: "2" });
  assert.equal((await api.call("DELETE", `/runtime-env/${first.id}`)).status, 200);
  assert.equal((await api.call("GET", `/runtime-env/${first.id}`)).status, 404);
  assert.deepEqual(await runtimeEnvironment(api.platform, "sandbox", owner), {});
});

test("what is not the key's own cannot be seen or set", async (t) => {
  const api = await start(t);
  const mine = (await api.call("POST", "/runtime-env", { body: { name: "A", value: "1" } })).body[
    "data"
  ] as Item;
  const other = await api.otherTenant();
  assert.equal((await api.call("GET", `/runtime-env/${mine.id}`, { key: other.key })).status, 404);
  assert.equal((await api.call("DELETE", `/runtime-env/${mine.id}`, { key: other.key })).status, 404);
  const workspace = (await api.call("POST", "/workspaces", { body: { name: "W" } })).body["data"] as Item;
  const bound = await api.key({ workspace_id: workspace.id });
  assert.deepEqual((await api.call("GET", "/runtime-env", { key: bound })).body["data"], []);
  assert.equal(
    (await api.call("POST", "/runtime-env", { key: bound, body: { name: "B", value: "1" } })).status,
    403,
  );
  assert.equal(
    (
      await api.call("POST", "/runtime-env", {
        key: bound,
        body: { name: "B", value: "1", scope: "workspace" },
      })
    ).status,
    201,
  );
  for (const [body, field] of [
    [{ name: "1A", value: "x" }, "name"],
    [{ name: "A", value: "x", scope: "project" }, "project_id"],
  ] as const) {
    const answer = await api.call("POST", "/runtime-env", { body });
    assert.equal(answer.status, 422);
    assert.ok((answer.body["errors"] as Record<string, unknown>)[field]);
  }
  const key = await api.key({ scopes: ["env:read"] });
  const refused = await api.call("POST", "/runtime-env", { key, body: { name: "A", value: "1" } });
  assert.equal(
    (refused.body["error"] as { details: { required_scope: string } }).details.required_scope,
    "env:write",
  );
});
