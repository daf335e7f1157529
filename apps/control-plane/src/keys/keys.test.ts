import assert from "node:assert/strict";
import { test } from "node:test";
import { workspaceHandlers } from "../tenants/index.ts";
import { startTestApi } from "../testing-api.ts";
import { scopedTokenHandlers } from "./index.ts";

const start = (t: Parameters<typeof startTestApi>[0]) =>
  startTestApi(t, {
    handlers: (platform) => [...scopedTokenHandlers(platform), ...workspaceHandlers(platform)],
  });

type Key = {
  id: string;
  key: string;
  token: string;
  status: string;
  scopes: string[];
  expires_at: string;
  allowed_ips: string[];
};
type Refusal = { code: string; details: { required_scope?: string } };

test("a key shows its secret once, works, and stops at once when revoked", async (t) => {
  const api = await start(t);
  const made = await api.call("POST", "/api-keys", { body: { name: "ci", preset: "ci" } });
  assert.equal(made.status, 201);
  const key = made.body.data as Key;
  assert.match(key.key, /^msk_u_/);
  assert.equal(key.key, key.token);
  assert.equal(key.status, "active");

  const list = (await api.call("GET", "/api-keys")).body.data as Key[];
  assert.equal(
    list.some((one) => one.id === key.id),
    true,
  );
  assert.equal(JSON.stringify(list).includes(key.key), false);

  assert.equal((await api.call("GET", "/api-keys", { key: key.key })).status, 200);
  assert.equal((await api.call("DELETE", `/api-keys/${key.id}`)).status, 200);
  assert.equal((await api.call("GET", "/api-keys", { key: key.key })).status, 401);
  const without = (await api.call("GET", "/api-keys")).body.data as Key[];
  assert.equal(
    without.some((one) => one.id === key.id),
    false,
  );
  const all = (await api.call("GET", "/api-keys?all=true")).body.data as Key[];
  assert.equal(all.find((one) => one.id === key.id)?.status, "revoked");
});

test("a rotated key's old secret stops at once, and it rotates only once", async (t) => {
  const api = await start(t);
  const old = (await api.call("POST", "/api-keys", { body: { name: "app", scopes: ["events:read"] } })).body
    .data as Key;
  const rotated = await api.call("POST", `/api-keys/${old.id}/rotate`, { body: {} });
  const next = rotated.body.data as Key;
  assert.equal(rotated.status, 200);
  assert.deepEqual(next.scopes, ["events:read"]);
  assert.equal((await api.call("GET", "/api-keys", { key: old.key })).status, 401);
  assert.equal((await api.call("GET", "/api-keys", { key: next.key })).status, 200);
  const again = await api.call("POST", `/api-keys/${old.id}/rotate`, { body: {} });
  assert.equal(again.status, 409);
  assert.equal((again.body.error as Refusal).code, "API_KEY_ALREADY_ROTATED");
  assert.equal((await api.call("POST", `/api-keys/${next.id}/rotate`)).status, 200);
});

test("a repeated creation with one Idempotency-Key answers with the same secret", async (t) => {
  const api = await start(t);
  const ask = () =>
    api.call("POST", "/api-keys", { body: { name: "once" }, headers: { "idempotency-key": "k1" } });
  const [first, second] = [await ask(), await ask()];
  assert.equal((first.body.data as Key).key, (second.body.data as Key).key);
});

test("a key cannot create, see or change a key with more rights than its own", async (t) => {
  const api = await start(t);
  const weak = await api.key({ scopes: ["sandboxes:write"] });
  const strong = (
    await api.call("POST", "/api-keys", { body: { name: "strong", scopes: ["databases:write"] } })
  ).body.data as Key;

  const wider = await api.call("POST", "/api-keys", {
    key: weak,
    body: { name: "x", scopes: ["databases:read"] },
  });
  assert.equal(wider.status, 403);
  assert.equal((wider.body.error as Refusal).details.required_scope, "databases:read");
  assert.equal(
    (await api.call("POST", "/api-keys", { key: weak, body: { name: "x", key_type: "admin" } })).status,
    403,
  );
  assert.equal(
    (await api.call("POST", "/api-keys", { key: weak, body: { name: "x", scopes: ["sandboxes:read"] } }))
      .status,
    201,
  );
  for (const [method, path] of [
    ["GET", ""],
    ["PATCH", ""],
    ["DELETE", ""],
    ["POST", "/rotate"],
  ] as const) {
    const body = method === "PATCH" ? { name: "mine" } : undefined;
    assert.equal((await api.call(method, `/api-keys/${strong.id}${path}`, { key: weak, body })).status, 404);
  }
  const seen = (await api.call("GET", "/api-keys", { key: weak })).body.data as Key[];
  assert.equal(
    seen.some((one) => one.id === strong.id),
    false,
  );
});

test("limits of a key pass on to the keys that it creates", async (t) => {
  const api = await start(t);
  const end = new Date(Date.now() + 3_600_000).toISOString();
  const limited = await api.key({ expires_at: end, allowed_ips: ["127.0.0.0/8"] });
  const child = (await api.call("POST", "/api-keys", { key: limited, body: { name: "child" } })).body
    .data as Key;
  assert.equal(child.expires_at, end);
  assert.deepEqual(child.allowed_ips, ["127.0.0.0/8"]);
  assert.equal(
    (await api.call("POST", "/api-keys", { key: limited, body: { name: "x", expires_in_days: 30 } })).status,
    403,
  );
  assert.equal(
    (await api.call("POST", "/api-keys", { key: limited, body: { name: "x", allowed_ips: ["8.8.8.8"] } }))
      .status,
    403,
  );
});

test("bad input is refused with the field's name", async (t) => {
  const api = await start(t);
  const cases: [Record<string, unknown>, string][] = [
    [{ name: "x", scopes: ["sandboxes:fly"] }, "scopes"],
    [{ name: "x", preset: "none" }, "preset"],
    [{ name: "x", expires_at: "2001-01-01T00:00:00Z" }, "expires_at"],
    [{ name: "x", allowed_ips: ["300.1.1.1"] }, "allowed_ips"],
    [{ scopes: [] }, "name"],
  ];
  for (const [body, field] of cases) {
    const answer = await api.call("POST", "/api-keys", { body });
    assert.equal(answer.status, 422, JSON.stringify(body));
    assert.ok(field in (answer.body["errors"] as object), JSON.stringify(answer.body));
  }
  assert.equal((await api.call("GET", "/api-keys/nonsense")).status, 400);
});

test("a foreign tenant's key and workspace do not exist", async (t) => {
  const api = await start(t);
  const other = await api.otherTenant();
  const mine = (await api.call("POST", "/api-keys", { body: { name: "mine" } })).body.data as Key;
  assert.equal((await api.call("DELETE", `/api-keys/${mine.id}`, { key: other.key })).status, 404);
  const theirs = await api.platform.pool.query<{ id: string }>(
    "select id from workspaces where tenant_id = $1",
    [other.tenantId],
  );
  const bound = await api.call("POST", "/api-keys", {
    body: { name: "x", workspace_id: theirs.rows[0]!.id },
  });
  assert.equal(bound.status, 404);
});

test("a scoped token has at most its creator's scopes, ends with it, and makes no others", async (t) => {
  const api = await start(t);
  const workspace = ((await api.call("GET", "/workspaces")).body.data as { id: string }[])[0]!.id;
  const creator = (
    await api.call("POST", "/api-keys", { body: { name: "c", scopes: ["sandboxes:read", "projects:read"] } })
  ).body.data as Key;
  const body = { user_id: "u1", workspace_id: workspace };

  const refused = await api.call("POST", "/tokens/scoped", {
    key: creator.key,
    body: { ...body, scopes: ["sandboxes:exec", "sandboxes:read"] },
  });
  assert.equal(refused.status, 403);
  assert.equal(typeof refused.body["error"], "string");
  assert.deepEqual(refused.body["invalid_scopes"], ["sandboxes:exec"]);

  const made = await api.call("POST", "/tokens/scoped", {
    key: creator.key,
    body: { ...body, scopes: ["projects:read"] },
  });
  assert.equal(made.status, 201);
  const token = made.body as unknown as Key;
  assert.deepEqual(token.scopes, ["projects:read"]);
  assert.equal((await api.call("GET", "/workspaces", { key: token.token })).status, 200);
  assert.equal((await api.call("POST", "/tokens/scoped", { key: token.token, body })).status, 403);
  const listed = await api.call("GET", `/tokens/scoped?workspace_id=${workspace}`, { key: creator.key });
  assert.deepEqual(
    (listed.body.data as Key[]).map(({ id }) => id),
    [token.id],
  );

  await api.call("DELETE", `/api-keys/${creator.id}`);
  assert.equal((await api.call("GET", "/workspaces", { key: token.token })).status, 401);
});

test("a revoked token stops at once", async (t) => {
  const api = await start(t);
  const workspace = ((await api.call("GET", "/workspaces")).body.data as { id: string }[])[0]!.id;
  const token = (
    await api.call("POST", "/tokens/scoped", { body: { user_id: "u1", workspace_id: workspace } })
  ).body as unknown as Key;
  const removed = await api.call("DELETE", `/tokens/scoped/${token.id}`);
  assert.equal(removed.body["revoked"], true);
  assert.equal((await api.call("GET", "/workspaces", { key: token.token })).status, 401);
});
