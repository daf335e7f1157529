import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import type { Answer } from "./api.ts";
import { routesOf, type Document } from "./openapi.ts";
import type { Scene } from "./scene.ts";

export function refusals(scene: Scene): void {
  const { api, refused } = scene;
  const anyId = randomUUID();
  const table: [string, () => Promise<Answer>, number, string][] = [
    ["no credential", () => api.get("/whoami", { key: null }), 401, "UNAUTHENTICATED"],
    ["an unknown key", () => api.get("/whoami", { key: "msk_u_unknown" }), 401, "UNAUTHENTICATED"],
    [
      "a foreign tenant",
      () => api.get("/whoami", { headers: { "x-miosa-tenant": anyId } }),
      403,
      "INVALID_TENANT_CONTEXT",
    ],
    ["malformed JSON", () => api.call("POST", "/sandboxes", { raw: "{" }), 400, "INVALID_JSON"],
    ["a list as body", () => api.post("/databases", []), 422, "VALIDATION_FAILED"],
    ["a wrong type", () => api.post("/sandboxes", { timeout_sec: "soon" }), 422, "VALIDATION_FAILED"],
    ["a missing field", () => api.post("/deployments", {}), 422, "VALIDATION_FAILED"],
    ["an unknown route", () => api.get("/nothing/here"), 404, "NOT_FOUND"],
    ["an unknown method", () => api.call("PUT", "/whoami", { body: {} }), 404, "NOT_FOUND"],
    ["a sandbox that is not there", () => api.get(`/sandboxes/${anyId}`), 404, "NOT_FOUND"],
    ["a database that is not there", () => api.get(`/databases/${anyId}`), 404, "NOT_FOUND"],
    ["a deployment that is not there", () => api.get(`/deployments/${anyId}`), 404, "NOT_FOUND"],
    ["a sandbox name that is unknown", () => api.get("/sandboxes/by-name/nobody"), 404, "NOT_FOUND"],
    ["an id that is none", () => api.get("/sandboxes/not!an!id"), 400, "INVALID_ID"],
    ["a database id that is none", () => api.get("/databases/not!an!id"), 400, "INVALID_ID"],
    ["a deployment id that is none", () => api.get("/deployments/not!an!id"), 400, "INVALID_ID"],
    ["an unknown template", () => api.post("/sandboxes", { template_id: "nope" }), 404, "TEMPLATE_NOT_FOUND"],
    [
      "a time-out over the limit",
      () => api.post(`/sandboxes/${scene.box}/exec`, { command: "true", timeout: 90_000 }),
      422,
      "TIMEOUT_TOO_LONG",
    ],
    ["a cursor of nobody", () => api.get("/deployments?cursor=abc"), 422, "INVALID_FILTER"],
    [
      "a body over the limit",
      () => api.call("POST", "/sandboxes", { raw: new Uint8Array(65 * 1024 * 1024) }),
      413,
      "PAYLOAD_TOO_LARGE",
    ],
    [
      "a port where nothing listens",
      () => api.post(`/sandboxes/${scene.box}/expose`, { port: 4999, wait_ms: 300 }),
      409,
      "PORT_NOT_REACHABLE",
    ],
    [
      "a file that is not there",
      () => api.get(`/sandboxes/${scene.box}/files/workspace/none`),
      404,
      "FILE_NOT_FOUND",
    ],
  ];
  for (const [name, ask, status, code] of table)
    test(`${name} is ${status} ${code}`, async () => {
      const answer = await ask();
      refused(answer, status, code);
      if (code === "VALIDATION_FAILED")
        assert.ok(
          Object.values((answer.json as { errors: Record<string, string[]> }).errors).every(Array.isArray),
        );
    });

  test("a request id of the caller comes back, one that could forge log lines does not", async () => {
    assert.equal(
      (await api.get("/whoami", { headers: { "x-request-id": "mine-1" } })).headers["x-request-id"],
      "mine-1",
    );
    assert.notEqual(
      (await api.get("/whoami", { headers: { "x-request-id": "a b" } })).headers["x-request-id"],
      "a b",
    );
  });

  test("every route of the document asks for a key and answers unknown ids without a fault of its own", async () => {
    const { origin } = new URL(scene.platform.apiUrl);
    const document = (await (await fetch(`${origin}/openapi.json`)).json()) as Document;
    for (const { method, path } of routesOf(document)) {
      const target = `${path.replace(/\{\w+\}/g, () => randomUUID())}?path=/workspace`;
      const body = method === "GET" || method === "DELETE" ? {} : { body: {} };
      assert.equal((await api.call(method, target, { key: null, ...body })).status, 401, `${method} ${path}`);
      // The tenant names its own users: none is unknown to their policies.
      if (!path.includes("{") || /\/(?:external-users|quotas\/external)\//.test(path)) continue;
      const { status, text } = await api.call(method, target, body);
      const isExpected = status === 404 || ((status === 422 || status === 400) && method !== "GET");
      assert.ok(
        isExpected || (method === "DELETE" && status < 300),
        `${method} ${path} ${status}: ${text.slice(0, 300)}`,
      );
    }
  });
}
