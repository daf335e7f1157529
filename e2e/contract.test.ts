import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { Api, visit, type Answer, type Json, type StreamRead } from "./contract/api.ts";
import { answerFaults, documentFaults, routesOf, type Document } from "./contract/openapi.ts";
import { repository, startPlatform, type RunningPlatform } from "./contract/platform.ts";
import { clientFaults, unwrapped } from "./contract/rules.ts";
import { assertShape, inside, shapes } from "./contract/shapes.ts";
import { answerBrandFaults, brandFaults } from "./contract/white-label.ts";

let platform: RunningPlatform;
let api: Api;
/** The sandbox that most tests share. */
let box: string;
/** Opened first and read last, so that its heartbeat costs no waiting. */
let tenantEvents: Promise<StreamRead>;
const pages: Answer[] = [];

const base64 = (text: string) => Buffer.from(text).toString("base64");
const data = (answer: Answer) => unwrapped(answer);
const ok = (answer: Answer, status = 200): Answer => {
  assert.equal(answer.status, status, `${answer.method} ${answer.path}: ${answer.text.slice(0, 1500)}`);
  return answer;
};
const refused = (answer: Answer, status: number, code: string): Json => {
  ok(answer, status);
  const { error } = answer.json as { error: Json };
  assert.equal(error["code"], code, answer.text);
  return error;
};
const open = async (url: string, path = "/") => {
  const page = await visit(platform.port, url, path);
  pages.push(page);
  return page;
};

before(async () => {
  platform = await startPlatform();
  api = new Api(platform.apiUrl, platform.apiKey);
  tenantEvents = api.stream("/events/stream?types=sandbox.*", (read) => read.comments.length > 0, {
    timeoutMs: 40_000,
  });
  const made = await api.create("/sandboxes?wait=60", {
    template_id: "miosa-sandbox",
    size: "small",
    name: "contract",
    timeout_sec: 3600,
    idle_timeout_sec: 0,
    persistent: true,
    external_workspace_id: "clinic-7",
    external_user_id: "u-42",
    metadata: { purpose: "demo" },
    github_repo_url: null,
  });
  ok(made, 201);
  assert.equal(made.headers["x-miosa-wait"], "ready");
  box = String(data(made)["id"]);
});
after(() => platform?.stop());

describe("identity and catalogue", () => {
  test("the base URL works with /api/v1, without it, doubled, and with a slash too many", async () => {
    const { origin } = new URL(platform.apiUrl);
    for (const path of [
      "/api/v1/whoami",
      "/whoami",
      "/api/v1/api/v1/whoami",
      "/api/v1/whoami/",
      "//whoami",
    ]) {
      const response = await fetch(origin + path, {
        headers: { authorization: `Bearer ${platform.apiKey}` },
      });
      assert.equal(response.status, 200, path);
      assert.ok("organization" in ((await response.json()) as Json), path);
    }
    for (const method of ["GET", "HEAD"]) {
      for (const path of ["/api/v1", "/api/v1/"])
        assert.equal(
          (await fetch(origin + path, { method, redirect: "manual" })).status,
          302,
          `${method} ${path}`,
        );
      assert.equal((await fetch(`${origin}/health`, { method })).status, 200);
    }
    ok(await api.call("HEAD", "/whoami"));
  });

  test("whoami, tenant, plan, templates and regions have the fields that clients need", async () => {
    const who = inside(ok(await api.get("/whoami")), "T") as Json;
    assertShape(who, { organization: "object", plan: "object", auth: "object" }, "whoami");
    assertShape(who["organization"], { id: "uuid", name: "string", slug: "string" }, "organization");
    const tenant = inside(ok(await api.get("/platform/tenants/current")), "T");
    assertShape(
      tenant,
      {
        id: "uuid",
        name: "string",
        slug: "string",
        plan: "string",
        plan_name: "string",
        credit_balance: "number",
        inserted_at: "time",
      },
      "tenant",
    );
    const plan = inside(ok(await api.get("/tenant/plan")), "D");
    assertShape(plan, { plan: "object", limits: "object", usage: "object" }, "plan");
    assert.ok(Array.isArray(inside(ok(await api.get("/platform/tenants")), "L")));
    const catalogue = ok(await api.get("/templates")).json as Json;
    assert.deepEqual(catalogue["data"], catalogue["templates"]);
    const rows = inside(ok(await api.get("/sandbox-templates")), "L") as Json[];
    assert.ok(rows.some((row) => row["id"] === "miosa-sandbox" && row["default"] === true));
    ok(await api.get("/sandbox-templates/miosa-sandbox"));
    assert.ok(Array.isArray((ok(await api.get("/regions")).json as Json)["regions"]));
  });
});

describe("refusals", () => {
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
      () => api.post(`/sandboxes/${box}/exec`, { command: "true", timeout: 90_000 }),
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
      () => api.post(`/sandboxes/${box}/expose`, { port: 4999, wait_ms: 300 }),
      409,
      "PORT_NOT_REACHABLE",
    ],
    [
      "a file that is not there",
      () => api.get(`/sandboxes/${box}/files/workspace/none`),
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
    const { origin } = new URL(platform.apiUrl);
    const document = (await (await fetch(`${origin}/openapi.json`)).json()) as Document;
    for (const { method, path } of routesOf(document)) {
      const target = path.replace(/\{\w+\}/g, () => randomUUID());
      const body = method === "GET" || method === "DELETE" ? {} : { body: {} };
      assert.equal((await api.call(method, target, { key: null, ...body })).status, 401, `${method} ${path}`);
      if (!path.includes("{")) continue;
      const { status, text } = await api.call(method, target, body);
      const isExpected = status === 404 || ((status === 422 || status === 400) && method !== "GET");
      assert.ok(
        isExpected || (method === "DELETE" && status < 300),
        `${method} ${path} ${status}: ${text.slice(0, 300)}`,
      );
    }
  });
});

describe("sandboxes", () => {
  test("a sandbox has every field of the contract, and so has the one in the list", async () => {
    const one = inside(ok(await api.get(`/sandboxes/${box}`)), "T") as Json;
    assertShape(one, shapes.sandbox, "sandbox");
    assert.equal(one["state"], "running");
    assert.equal(one["ready"], true);
    assert.deepEqual(one["tags"], {});
    assert.deepEqual(one["metadata"], { purpose: "demo" });
    assert.equal(one["created_at"], one["inserted_at"]);
    assert.deepEqual(one["resource_contract"], {
      id: "sandbox/small@v1",
      product: "sandbox",
      size: "small",
      version: "v1",
      vcpus: 2,
      memory_mb: 4096,
      disk_size_mb: 10_240,
    });
    assert.match(String(one["preview_url"]), new RegExp(`^https?://${one["slug"]}\\.sandbox\\.`));
    const list = ok(await api.get("/sandboxes?external_workspace_id=clinic-7"));
    assertShape((inside(list, "L") as Json[])[0], shapes.sandbox, "listed sandbox");
    assertShape(
      (list.json as Json)["meta"],
      {
        page: "number",
        limit: "number",
        total: "number",
        total_pages: "number",
        has_next_page: "boolean",
        state_counts: "object",
        reserved_memory_mb: "number",
      },
      "meta",
    );
    assert.equal(data(ok(await api.get("/sandboxes/by-name/contract")))["id"], box);
  });

  test("tags come back in the form in which they were set, and filter in both", async () => {
    const change = (tags: unknown) => api.call("PATCH", `/sandboxes/${box}/tags`, { body: { tags } });
    assert.deepEqual((inside(ok(await change(["a", "b"])), "T") as Json)["tags"], ["a", "b"]);
    assert.equal((inside(ok(await api.get("/sandboxes?tags=a,b")), "L") as Json[]).length, 1);
    assert.deepEqual((inside(ok(await change({ team: "x" })), "T") as Json)["tags"], { team: "x" });
    assert.equal((inside(ok(await api.get("/sandboxes?tags%5Bteam%5D=x")), "L") as Json[]).length, 1);
    assert.equal((inside(ok(await api.get("/sandboxes?tags%5Bteam%5D=y")), "L") as Json[]).length, 0);
  });

  test("usage, metrics, ports, logs and readiness have their shapes", async () => {
    const at = `/sandboxes/${box}`;
    assertShape(inside(ok(await api.get(`${at}/usage`)), "D"), shapes.usage, "usage");
    const metrics = inside(ok(await api.get(`${at}/metrics?window=1h`)), "D");
    assertShape(
      metrics,
      { resource_type: "string", sandbox_id: "uuid", window: "string", current: "object", series: "object" },
      "metrics",
    );
    assertShape(
      inside(ok(await api.get(`${at}/ports`)), "T"),
      { sandbox_id: "uuid", count: "number", ports: "array" },
      "ports",
    );
    assertShape(inside(ok(await api.get(`${at}/logs?lines=5`)), "T"), { logs: "array" }, "logs");
    const readiness = inside(ok(await api.get(`${at}/readiness`)), "T") as Json;
    assert.equal(readiness["ready"], true);
    const { components } = readiness["readiness"] as { components: Record<string, Json> };
    assert.deepEqual(Object.keys(components).sort(), [
      "clock",
      "command_agent",
      "durability",
      "filesystem",
      "identity",
      "internal_probe",
      "process_control",
      "resource_contract",
    ]);
    assert.ok(Object.values(components).every(({ status }) => status === "ready"));
  });

  test("wait=2 answers 201 with timeout while a sandbox still prepares, and no wait says nothing", async () => {
    const slow = await api.create("/sandboxes?wait=2", { setup_file: "sleep 20" });
    ok(slow, 201);
    assert.equal(slow.headers["x-miosa-wait"], "timeout");
    assert.equal(data(slow)["ready"], false);
    const direct = ok(await api.create("/sandboxes", { size: "xs" }), 201);
    assert.equal(direct.headers["x-miosa-wait"], undefined);
    // A call right after a 201 holds, or is refused for now: never a 404, never a 5xx.
    const early = await api.post(`/sandboxes/${data(direct)["id"]}/exec`, { command: "echo early" });
    if (early.status !== 200) assert.equal(refused(early, 409, "SANDBOX_STARTING")["retryable"], true);
    for (const made of [slow, direct]) {
      const gone = inside(ok(await api.call("DELETE", `/sandboxes/${data(made)["id"]}`)), "T") as Json;
      assert.equal(gone["state"], "destroyed");
      refused(await api.get(`/sandboxes/${data(made)["id"]}`), 404, "NOT_FOUND");
    }
  });

  test("environment values are set, listed without their value, seen by commands, and removed", async () => {
    const at = `/sandboxes/${box}/env`;
    const set = ok(
      await api.call("PUT", at, { body: { vars: [{ key: "GREETING", value: "a secret value" }] } }),
    );
    assert.ok(!set.text.includes("a secret value"));
    const rows = inside(ok(await api.get(at)), "L") as Json[];
    assertShape(
      rows.find((row) => row["key"] === "GREETING"),
      { key: "string", name: "string", preview: "string", encrypted: "boolean" },
      "env",
    );
    ok(await api.post(`${at}/sync`));
    const said = await api.post(`/sandboxes/${box}/exec`, { command: 'echo "$GREETING"' });
    assert.equal(data(said)["stdout"], "a secret value\n");
    ok(await api.call("DELETE", `${at}/GREETING`));
  });

  test("snapshots are listed, forked, protected while in use, restored and removed", async () => {
    const at = `/sandboxes/${box}/snapshots`;
    const made = ok(await api.create(at, { comment: "before" }), 201);
    assertShape(inside(made, "D"), shapes.snapshot, "snapshot");
    const id = data(made)["id"];
    await api.until(`${at}/${id}`, (json) => (json["data"] as Json)["status"] === "ready");
    assert.ok((inside(ok(await api.get(at)), "L") as Json[]).some((row) => row["id"] === id));
    const fork = inside(
      ok(await api.create(`/sandboxes/${box}/fork`, { snapshot_id: id, name: "fork-1" }), 201),
      "T",
    ) as Json;
    assertShape(fork, shapes.sandbox, "fork");
    const error = refused(await api.call("DELETE", `${at}/${id}`), 409, "SNAPSHOT_IN_USE");
    const { dependents } = error["details"] as { dependents: Json[] };
    assert.deepEqual(dependents, [{ type: "sandbox", id: fork["id"], label: "fork-1" }]);
    ok(await api.call("DELETE", `/sandboxes/${fork["id"]}`));
    assert.equal((inside(ok(await api.post(`/sandboxes/${box}/restore/${id}`)), "T") as Json)["id"], box);
    await api.until(`/sandboxes/${box}`, (json) => json["ready"] === true);
    assert.ok([200, 204].includes((await api.call("DELETE", `${at}/${id}`)).status));
  });

  test("a paused sandbox wakes for a command, and its processes went on", async () => {
    const at = `/sandboxes/${box}`;
    assert.deepEqual(inside(ok(await api.post(`${at}/pause`)), "T"), { id: box, state: "paused" });
    assert.equal(data(ok(await api.post(`${at}/exec`, { command: "echo awake" })))["stdout"], "awake\n");
    assert.equal((inside(ok(await api.post(`${at}/stop`)), "T") as Json)["state"], "paused");
    assert.equal((inside(ok(await api.post(`${at}/resume`)), "T") as Json)["state"], "running");
    const extended = inside(ok(await api.post(`${at}/extend`, { timeout_sec: 7200 })), "T") as Json;
    assert.ok(Number(extended["timeout_remaining_ms"]) > 7_100_000);
    assert.equal(
      (inside(ok(await api.call("PATCH", at, { body: { idle_timeout_sec: 900 } })), "T") as Json)[
        "idle_timeout_sec"
      ],
      900,
    );
  });
});

describe("commands, files and streams", () => {
  test("a command that fails or runs too long is an answer, not an error", async () => {
    const run = (body: unknown) => api.post(`/sandboxes/${box}/exec`, body);
    const failed = inside(ok(await run({ command: "echo hi; exit 3", timeout: 30 })), "D") as Json;
    assertShape(failed, shapes.exec, "exec");
    assert.deepEqual(
      [failed["stdout"], failed["stderr"], failed["exit_code"], failed["timed_out"]],
      ["hi\n", "", 3, false],
    );
    const late = data(ok(await run({ command: "sleep 20", timeout: 1 })));
    assert.deepEqual([late["exit_code"], late["timed_out"]], [-1, true]);
    const there = data(ok(await run({ command: "echo $X; pwd", dir: "/tmp", env: { X: "1" } })));
    assert.equal(there["stdout"], "1\n/tmp\n");
    const both = data(
      ok(
        await api.post(`/sandboxes/${box}/commands`, { command: "cat", stdin: "in", timeout_seconds: 10 }),
        201,
      ),
    );
    assert.equal(both["stdout"], "in");
  });

  test("a streamed command sends its lines and ends with its exit, -1 after a time-out", async () => {
    const read = async (command: string, timeout: number) =>
      api.stream(`/sandboxes/${box}/exec/stream`, () => false, {
        body: { command, timeout },
        accept: "text/event-stream, application/json, */*",
      });
    const short = await read("echo hi; echo no >&2; exit 3", 20);
    assert.match(short.headers["content-type"] ?? "", /^text\/event-stream/);
    assert.ok(short.ended && short.headers["x-request-id"]);
    for (const { event, data: payload } of short.events) assert.equal(payload["type"], event);
    assert.deepEqual(short.events.find(({ event }) => event === "stdout")?.data, {
      type: "stdout",
      line: "hi",
    });
    assert.deepEqual(short.events.find(({ event }) => event === "stderr")?.data, {
      type: "stderr",
      line: "no",
    });
    assert.equal(short.events.at(-1)?.event, "exit");
    assert.equal(short.events.at(-1)?.data["exit_code"], 3);
    const late = await read("echo a; sleep 20", 1);
    assert.deepEqual(
      late.events.map(({ event }) => event),
      ["stdout", "exit"],
    );
    assert.equal(late.events.at(-1)?.data["exit_code"], -1);
  });

  test("the readiness stream of a ready sandbox says so at once and ends, also with a ticket alone", async () => {
    const { ticket } = inside(ok(await api.post("/sse/ticket")), "T") as { ticket: string };
    const read = await api.stream(`/sandboxes/${box}/readiness/stream?ticket=${ticket}`, () => false, {
      key: null,
    });
    assert.deepEqual(
      read.events.map(({ event, data: payload }) => [event, payload["type"], payload["ready"]]),
      [["ready", "ready", true]],
    );
    assert.ok(read.ended);
    refused(await api.get(`/sandboxes/${box}?ticket=${ticket}`, { key: null }), 401, "UNAUTHENTICATED");
    refused(
      await api.get("/events/stream?ticket=tkt_wrong", {
        key: null,
        headers: { accept: "text/event-stream" },
      }),
      401,
      "UNAUTHENTICATED",
    );
  });

  test("durable commands, processes and services can be found, read and ended", async () => {
    const at = `/sandboxes/${box}`;
    const command = inside(
      ok(await api.post(`${at}/commands`, { command: "echo durable; sleep 60", tty: false }), 201),
      "D",
    ) as Json;
    assert.equal(command["status"], "running");
    await api.until(`${at}/commands/${command["id"]}/logs`, (json) =>
      ((json["data"] as Json)["lines"] as string[]).includes("durable"),
    );
    assertShape(
      inside(ok(await api.post(`${at}/commands/${command["id"]}/kill`)), "D"),
      { id: "uuid", status: "string" },
      "killed command",
    );
    const started = inside(
      ok(await api.post(`${at}/processes`, { command: "echo n; sleep 60", name: "worker" }), 201),
      "D",
    ) as Json;
    assertShape(started, { ...shapes.process, pid: "number" }, "process");
    for (const key of [started["id"], started["pid"]])
      assert.equal(data(ok(await api.get(`${at}/processes/${key}`)))["name"], "worker");
    assert.ok(
      (inside(ok(await api.get(`${at}/processes`)), "L") as Json[]).some(
        (row) => row["id"] === started["id"],
      ),
    );
    ok(await api.call("DELETE", `${at}/processes/${started["id"]}`));
    const service = inside(
      ok(await api.post(`${at}/services`, { name: "idle", command: "sleep 600" }), 201),
      "D",
    ) as Json;
    assertShape(service, shapes.process, "service");
    assert.equal(data(ok(await api.post(`${at}/services/idle/restart`)))["name"], "idle");
    assertShape(
      inside(ok(await api.get(`${at}/services/idle/logs?tail=5`)), "D"),
      { lines: "array" },
      "service logs",
    );
    ok(await api.call("DELETE", `${at}/processes/${service["id"]}`));
    assert.equal(data(ok(await api.post(`${at}/services/idle/restart`)))["status"], "running");
  });

  test("files are written and read in every form", async () => {
    const at = `/sandboxes/${box}`;
    const odd = "/workspace/ä b#?.txt";
    const one = inside(ok(await api.post(`${at}/files`, { path: odd, content: base64("hällo") }), 201), "D");
    assert.deepEqual(one, { path: odd, size_bytes: 6 });
    for (const path of [
      `${at}/files/workspace/${encodeURIComponent("ä b#?.txt")}`,
      `${at}/files/${encodeURIComponent(odd.slice(1))}`,
      `${at}/fs/download?path=${encodeURIComponent(odd)}`,
    ]) {
      const read = ok(await api.get(path));
      assert.equal(read.text, "hällo", path);
      assert.match(read.headers["content-type"] ?? "", /octet-stream/);
    }
    const many = inside(
      ok(
        await api.post(`${at}/files/write-many`, {
          files: [
            { path: "/workspace/a.txt", content_base64: "YQ==" },
            { path: "/workspace/bad", content_base64: "%" },
          ],
        }),
      ),
      "D",
    ) as { written: Json[]; failed: Json[] };
    assert.deepEqual(many.written, [{ path: "/workspace/a.txt", size_bytes: 1 }]);
    assertShape(many.failed[0], { path: "string", error: "string" }, "failed");
    ok(
      await api.post(`${at}/files/batch`, { files: [{ path: "/workspace/d/b.txt", content: base64("b") }] }),
    );
    ok(
      await api.post(`${at}/fs/write-many`, {
        files: [{ path: "/workspace/d/c.txt", content_base64: base64("c") }],
      }),
    );
    assert.deepEqual(inside(ok(await api.get(`${at}/files/read?path=/workspace/a.txt`)), "D"), {
      path: "/workspace/a.txt",
      content: "a",
    });
    const { entries } = inside(ok(await api.get(`${at}/files?path=/workspace&depth=2`)), "D") as {
      entries: Json[];
    };
    assertShape(
      entries.find((row) => row["path"] === "/workspace/d/b.txt"),
      { name: "string", size: "number", is_dir: "boolean", modified_at: "time" },
      "entry",
    );
    for (const path of ["files/stat", "fs/stat"])
      assertShape(
        inside(ok(await api.post(`${at}/${path}`, { path: "/workspace/a.txt" })), "D"),
        { path: "string", size: "number", is_dir: "boolean", mode: "number", modified_at: "time" },
        path,
      );
    assertShape(
      inside(ok(await api.get(`${at}/files/tree?path=/workspace&depth=2`)), "D"),
      { path: "string", name: "string", type: "string", children: "array" },
      "tree",
    );
    assert.deepEqual(
      (
        inside(
          ok(await api.post(`${at}/fs/write`, { path: "/workspace/t.txt", content: "text" }), 201),
          "T",
        ) as Json
      )["success"],
      true,
    );
    ok(await api.post(`${at}/fs/write`, { path: "/workspace/u.txt", content_base64: base64("bytes") }), 201);
    assert.equal(
      (inside(ok(await api.get(`${at}/fs/read?path=/workspace/u.txt`)), "T") as Json)["content"],
      "bytes",
    );
    ok(await api.post(`${at}/fs/mkdir`, { path: "/workspace/m/n", recursive: true }));
    const { files } = inside(ok(await api.get(`${at}/fs?path=/workspace`)), "T") as { files: Json[] };
    assertShape(
      files.find((row) => row["name"] === "m"),
      { name: "string", type: "string", size_bytes: "number", modified_at: "time" },
      "fs entry",
    );
    assert.equal(
      (inside(ok(await api.call("DELETE", `${at}/fs?path=/workspace/m`)), "T") as Json)["success"],
      true,
    );
    ok(await api.call("DELETE", `${at}/files/workspace/t.txt`));
  });

  test("a watched folder tells of a change by name, and of no file that is still being written", async () => {
    const opened = Promise.withResolvers<void>();
    const watching = api.stream(
      `/sandboxes/${box}/files/watch?path=/workspace`,
      ({ events }) => events.some((one) => one.data["path"] === "/workspace/seen.txt"),
      { onOpen: opened.resolve },
    );
    await opened.promise;
    // The stream is open before the watch is set in the sandbox: write until it was heard.
    const writing = setInterval(
      () =>
        void api.post(`/sandboxes/${box}/files`, {
          path: "/workspace/seen.txt",
          content: base64(String(Date.now())),
        }),
      500,
    );
    const { events } = await watching;
    clearInterval(writing);
    assertShape(
      events.at(-1)?.data,
      { event: "string", type: "string", path: "string", is_dir: "boolean" },
      "watch",
    );
    assert.deepEqual(
      events.filter(({ data: { path } }) => String(path).endsWith(".upload")),
      [],
    );
  });
});
