import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { startTestApi } from "../testing-api.ts";
import { sandboxHandlers } from "./index.ts";

const error = (body: Record<string, unknown>) => body["error"] as { code: string; details: unknown };

test("a key of one workspace cannot start a sandbox from another workspace's snapshot", async (t) => {
  const api = await startTestApi(t, { handlers: (platform) => sandboxHandlers(platform) });
  const { pool } = api.platform;
  const [mine, theirs] = [randomUUID(), randomUUID()];
  for (const id of [mine, theirs]) {
    await pool.query("insert into workspaces (id, tenant_id, name, slug) values ($1, $2, $3, $3)", [
      id,
      api.tenantId,
      `w-${id}`,
    ]);
  }
  const made = await api.call("POST", "/sandboxes", { body: { workspace_id: theirs } });
  assert.equal(made.status, 201, JSON.stringify(made.body));
  const snapshotId = randomUUID();
  await pool.query(
    `insert into snapshots (id, tenant_id, sandbox_id, snapshot_key, status, sandbox_settings) values ($1, $2, $3, $4, 'ready', '{}')`,
    [snapshotId, api.tenantId, made.body["id"], `sn-${snapshotId}`],
  );
  const key = await api.key({ workspace_id: mine });
  for (const body of [{ snapshot_id: snapshotId }, { source: `snapshot:${snapshotId}` }]) {
    const refused = await api.call("POST", "/sandboxes", { key, body });
    assert.deepEqual([refused.status, error(refused.body).code], [404, "NOT_FOUND"]);
  }
  const own = await api.call("POST", "/sandboxes", { body: { snapshot_id: snapshotId } });
  assert.equal(own.status, 201);
});

test("a variable that no program can be given is refused at the door", async (t) => {
  const api = await startTestApi(t, { handlers: (platform) => sandboxHandlers(platform) });
  const refused = await api.call("POST", "/sandboxes", { body: { env: { A: "a\u0000b" } } });
  assert.deepEqual([refused.status, error(refused.body).code], [422, "VALIDATION_FAILED"]);
});
