import assert from "node:assert/strict";
import { request } from "undici";
import type { OwnPlatform } from "../full/own-platform.ts";
import { Description } from "./description.ts";
import { sandboxDomain } from "./run-session.ts";

interface Answer {
  readonly status: number;
  readonly body: unknown;
  readonly headers: Record<string, unknown>;
}

/** Newer forms of described calls, which the client uses; what they answer is the same. */
const newer: Record<string, string> = {
  "POST /v2/sandboxes": "/sandboxes",
  "POST /v2/sandboxes/{sandboxID}/connect": "/sandboxes/{sandboxID}/connect",
};

/** Calls the control API and holds every answer against its maker's description. */
export function controlApi(platform: OwnPlatform) {
  const description = new Description();
  return async (
    method: "GET" | "POST" | "PUT" | "DELETE",
    path: string,
    options: { id?: string; query?: string; body?: unknown; key?: string } = {},
  ): Promise<Answer> => {
    const target = path.replace(/\{[A-Za-z]+\}/, encodeURIComponent(options.id ?? ""));
    const response = await request(`http://127.0.0.1:${platform.edgePort}${target}${options.query ?? ""}`, {
      method,
      headers: {
        host: `api.${sandboxDomain}:${platform.edgePort}`,
        "x-api-key": options.key ?? platform.boot.api_key,
        ...(options.body === undefined ? {} : { "content-type": "application/json" }),
      },
      body: options.body === undefined ? null : JSON.stringify(options.body),
    });
    const text = await response.body.text();
    description.assertAnswer(method, newer[`${method} ${path}`] ?? path, response.statusCode, text);
    return {
      status: response.statusCode,
      body: text === "" ? null : (JSON.parse(text) as unknown),
      headers: response.headers,
    };
  };
}

const unknownId = "11111111-1111-4111-8111-111111111111";

/** One life of a sandbox through every call that the description and we have. */
export async function holdAgainstDescription(platform: OwnPlatform): Promise<void> {
  const call = controlApi(platform);
  const at = async (status: number, answer: Promise<Answer>) => {
    const { status: seen, body, headers } = await answer;
    assert.equal(seen, status, JSON.stringify(body));
    return { body: body as Record<string, unknown>, headers };
  };
  await at(401, call("GET", "/v2/sandboxes", { key: "e2b_unknown" }));
  await at(400, call("POST", "/sandboxes", { body: { timeout: "soon" } }));
  await at(
    400,
    call("POST", "/sandboxes", { body: { templateID: "base", volumeMounts: [{ name: "a", path: "/a" }] } }),
  );
  const made = await at(
    201,
    call("POST", "/v2/sandboxes", { body: { templateID: "base", timeout: 600, metadata: { a: "b" } } }),
  );
  const id = String(made.body["sandboxID"]);
  assert.equal(made.body["domain"], `${sandboxDomain}:${platform.edgePort}`);
  const sandbox = "/sandboxes/{sandboxID}";
  await at(200, call("GET", sandbox, { id }));
  await at(404, call("GET", sandbox, { id: unknownId }));
  await at(404, call("GET", sandbox, { id: "no-id" }));
  await at(200, call("GET", "/sandboxes", { query: "?metadata=a%3Db" }));
  const listed = await at(200, call("GET", "/v2/sandboxes", { query: "?state=running,paused&limit=1" }));
  assert.equal(listed.headers["x-total-running"], "1");
  await at(400, call("GET", "/v2/sandboxes", { query: "?nextToken=nonsense" }));
  await at(200, call("GET", `${sandbox}/metrics`, { id }));
  await at(200, call("GET", "/sandboxes/metrics", { query: `?sandbox_ids=${id},${unknownId}` }));
  await at(200, call("GET", `${sandbox}/logs`, { id }));
  await at(200, call("GET", `/v2${sandbox}/logs`, { id, query: "?direction=backward&limit=5" }));
  await at(204, call("POST", `${sandbox}/timeout`, { id, body: { timeout: 700 } }));
  await at(204, call("POST", `${sandbox}/refreshes`, { id, body: { duration: 800 } }));
  await at(200, call("POST", `${sandbox}/connect`, { id, body: { timeout: 60 } }));
  await at(204, call("PUT", `${sandbox}/network`, { id, body: { denyOut: ["10.0.0.0/8"] } }));
  await at(204, call("POST", `${sandbox}/pause`, { id, body: {} }));
  await at(409, call("POST", `${sandbox}/pause`, { id, body: {} }));
  await at(201, call("POST", `/v2${sandbox}/connect`, { id, body: {} }));
  await at(409, call("POST", `${sandbox}/resume`, { id, body: {} }));
  const snapshot = await at(201, call("POST", `${sandbox}/snapshots`, { id, body: { name: "described" } }));
  await at(200, call("GET", "/snapshots", { query: `?sandboxID=${id}` }));
  await at(200, call("GET", "/templates"));
  await at(200, call("GET", "/templates/aliases/{alias}", { id: "base" }));
  await at(404, call("GET", "/templates/aliases/{alias}", { id: "none" }));
  await at(200, call("GET", "/templates/{templateID}/tags", { id: "base" }));
  await at(200, call("GET", "/teams"));
  const forks = await at(201, call("POST", `${sandbox}/fork`, { id, body: { count: 1, timeout: 60 } }));
  const [fork] = forks.body as unknown as { sandbox: { sandboxID: string } }[];
  await at(204, call("DELETE", sandbox, { id: fork!.sandbox.sandboxID }));
  await at(204, call("DELETE", "/templates/{templateID}", { id: String(snapshot.body["snapshotID"]) }));
  await at(204, call("DELETE", sandbox, { id }));
  await at(404, call("DELETE", sandbox, { id }));
}
