import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { ApiError, ConnectionError, createClient, type Client } from "./index.ts";
import { json, serve } from "./testing.ts";

function clientOf(t: TestContext, origin: string): Client {
  const client = createClient({ baseUrl: `${origin}/api/v1`, apiKey: "msk_u_test", retryBaseMs: 1 });
  t.after(() => client.close());
  return client;
}

test("a create keeps its idempotency key over retries and returns the answer at last", async (t) => {
  const { origin, received } = await serve(t, (_request, response, index) => {
    if (index < 2) json(response, 503, { error: { code: "HOST_UNAVAILABLE", message: "busy" } });
    else json(response, 201, { data: { id: "d1", state: "creating" } });
  });
  const database = await clientOf(t, origin).databases.create({ name: "a" });
  assert.equal(database.id, "d1");
  assert.equal(received.length, 3);
  const keys = new Set(received.map((one) => one.headers["idempotency-key"]));
  assert.equal(keys.size, 1);
  assert.match(String([...keys][0]), /^[0-9a-f-]{36}$/);
  assert.deepEqual(received[0]?.body, { engine: "postgresql", name: "a" });
  assert.equal(received[0]?.headers.authorization, "Bearer msk_u_test");
});

test("two creates have different keys", async (t) => {
  const { origin, received } = await serve(t, (_request, response) =>
    json(response, 201, { data: { id: "d" } }),
  );
  const client = clientOf(t, origin);
  await client.databases.create({ name: "a" });
  await client.databases.create({ name: "a" });
  assert.notEqual(received[0]?.headers["idempotency-key"], received[1]?.headers["idempotency-key"]);
});

test("a command that may have run is not sent twice", async (t) => {
  const { origin, received } = await serve(t, (_request, response) =>
    json(response, 502, { error: { code: "SANDBOX_AGENT_UNAVAILABLE", message: "lost" } }),
  );
  await assert.rejects(clientOf(t, origin).sandboxes.exec("s", { command: "rm x" }), ApiError);
  assert.equal(received.length, 1);
});

test("a refusal before any work is retried after the time that the server asks for", async (t) => {
  const { origin, received } = await serve(t, (_request, response, index) => {
    const error = { code: "SANDBOX_STARTING", message: "soon", retryable: true, retry_after_ms: 1 };
    if (index === 0) json(response, 409, { error });
    else if (index === 1)
      json(response, 429, { error: { code: "RATE_LIMITED", message: "slow" } }, { "retry-after": "0" });
    else
      json(response, 200, {
        data: { stdout: "hi\n", stderr: "", exit_code: 0, duration_ms: 1, timed_out: false },
      });
  });
  const result = await clientOf(t, origin).sandboxes.exec("s", { command: "echo hi" });
  assert.equal(result.stdout, "hi\n");
  assert.equal(received.length, 3);
});

test("an error carries code, details, field messages and request id", async (t) => {
  const { origin } = await serve(t, (_request, response) =>
    json(response, 422, {
      error: { code: "VALIDATION_FAILED", message: "name: missing", details: { a: 1 }, retryable: false },
      errors: { name: ["can't be blank"] },
    }),
  );
  await assert.rejects(clientOf(t, origin).databases.create({ name: "" }), (error) => {
    assert.ok(error instanceof ApiError);
    assert.equal(error.status, 422);
    assert.equal(error.code, "VALIDATION_FAILED");
    assert.deepEqual(error.details, { a: 1 });
    assert.deepEqual(error.fields, { name: ["can't be blank"] });
    assert.equal(error.requestId, "req_1");
    return true;
  });
});

test("an answer that is no JSON, such as a proxy's page, is still a typed error", async (t) => {
  const { origin } = await serve(t, (_request, response) => {
    response.writeHead(404, { "content-type": "text/html" });
    response.end("<h1>nothing</h1>");
  });
  await assert.rejects(
    clientOf(t, origin).databases.get("x"),
    (error) => error instanceof ApiError && error.code === "HTTP_404",
  );
});

test("a dropped connection is retried, and named when it stays", async (t) => {
  const { origin, received } = await serve(t, (_request, response) => response.destroy());
  await assert.rejects(
    clientOf(t, origin).databases.list(),
    (error) => error instanceof ConnectionError && error.code === "CONNECTION_FAILED",
  );
  assert.equal(received.length, 4);
});

test("a single sandbox is read bare and in an envelope", async (t) => {
  const { origin } = await serve(t, (_request, response, index) =>
    json(response, 200, index === 0 ? { id: "s", ready: true } : { data: { id: "s", ready: true } }),
  );
  const client = clientOf(t, origin);
  assert.equal((await client.sandboxes.get("s")).id, "s");
  assert.equal((await client.sandboxes.get("s")).id, "s");
});

test("names below localhost reach this machine and keep their Host header", async (t) => {
  const { port, received } = await serve(t, (_request, response) => json(response, 200, { data: [] }));
  await clientOf(t, `http://api.tenant.localhost:${port}`).databases.list();
  assert.equal(received[0]?.headers.host, `api.tenant.localhost:${port}`);
});

test("a path with spaces and slashes is read from the place that was asked for", async (t) => {
  const { origin, received } = await serve(t, (_request, response) => response.end("bytes"));
  const content = await clientOf(t, origin).sandboxes.readFile("s", "/workspace/a b/ü.txt");
  assert.equal(content.toString(), "bytes");
  assert.equal(received[0]?.path, "/api/v1/sandboxes/s/files/workspace/a%20b/%C3%BC.txt");
});

test("a database is ready only once its login was proved", async (t) => {
  const states = [
    { state: "creating" },
    { state: "running", connection_test: { status: "failed" } },
    { state: "running", connection_test: { status: "ok" } },
  ];
  const { origin, received } = await serve(t, (_request, response, index) =>
    json(response, 200, { data: { id: "d", ...states[index] } }),
  );
  await clientOf(t, origin).databases.waitUntilReady("d", { everyMs: 1 });
  assert.equal(received.length, 3);
});

test("a failed database ends the wait with its reason", async (t) => {
  const { origin } = await serve(t, (_request, response) =>
    json(response, 200, { data: { id: "d", state: "failed", last_error: "disk_full" } }),
  );
  await assert.rejects(clientOf(t, origin).databases.waitUntilReady("d"), /disk_full/);
});
