import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { connect } from "node:net";
import { test } from "node:test";
import { connect as tlsConnect } from "node:tls";
import type { Json } from "./api.ts";
import { unwrapped as data } from "./rules.ts";
import type { Scene } from "./scene.ts";
import { assertShape, inside, shapes } from "./shapes.ts";

const server = (version: number) =>
  `require("http").createServer((ask, answer) => answer.end(ask.url === "/env" ? JSON.stringify(process.env) : "version ${version}")).listen(process.env.PORT || 3000, "0.0.0.0")`;

/** Subject and issuer of the certificate that a Postgres shows. */
function certificateOf(host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, host, () => socket.write(Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])));
    socket.once("error", reject);
    socket.once("data", () => {
      const secure = tlsConnect({ socket, rejectUnauthorized: false }, () => {
        const { subject, issuer, subjectaltname } = secure.getPeerCertificate();
        resolve(JSON.stringify({ subject, issuer, subjectaltname }));
        secure.destroy();
      });
      secure.once("error", reject);
    });
  });
}

export function idempotency(scene: Scene): void {
  const { api, ok, refused } = scene;
  test("a repeated create is answered with the first answer, byte for byte", async () => {
    const key = randomUUID();
    const body = { name: "Once", metadata: { a: 1 } };
    const first = ok(await api.create("/deployments", body, key), 201);
    assert.ok((first.json as Json)["webhook_secret"], "the secret is beside data");
    const again = await api.create("/deployments", body, key);
    assert.deepEqual([again.status, again.text], [first.status, first.text]);
    refused(await api.create("/deployments", { name: "Other" }, key), 409, "IDEMPOTENCY_PAYLOAD_MISMATCH");
    // The same key on another path is another request.
    ok(await api.create("/sse/ticket", {}, key));
  });

  test("calls with one key at the same time make one resource", async () => {
    const key = randomUUID();
    const answers = await Promise.all(
      Array.from({ length: 4 }, () => api.create("/deployments", { name: "Race" }, key)),
    );
    assert.equal(new Set(answers.map(({ text }) => text)).size, 1);
    const { data: rows } = ok(await api.get("/deployments?limit=200")).json as { data: Json[] };
    assert.equal(rows.filter((row) => row["name"] === "Race").length, 1);
  });

  test("a refusal is repeated for its key, and another key may try anew", async () => {
    const key = randomUUID();
    const taken = { name: "Slug", slug: `taken-${key.slice(0, 8)}` };
    ok(await api.create("/deployments", taken), 201);
    const first = await api.create("/deployments", taken, key);
    refused(first, 409, "NAME_TAKEN");
    assert.equal((await api.create("/deployments", taken, key)).text, first.text);
  });
}

export function pagination(scene: Scene): void {
  const { api, ok } = scene;
  test("cursors lead through a list once, and page and limit through sandboxes", async () => {
    const ids: unknown[] = [];
    let cursor: unknown = "";
    for (let turn = 0; turn < 50 && cursor !== undefined; turn += 1) {
      const { json } = ok(await api.get(`/deployments?limit=2${cursor ? `&cursor=${String(cursor)}` : ""}`));
      const answer = json as { data: Json[]; next_cursor?: unknown };
      assert.ok(answer.data.length <= 2);
      ids.push(...answer.data.map((row) => row["id"]));
      cursor = answer.next_cursor ?? undefined;
    }
    const all = (ok(await api.get("/deployments?limit=200")).json as { data: Json[] }).data.map(
      (row) => row["id"],
    );
    assert.ok(all.length >= 3);
    assert.deepEqual(ids, all);
    const { json } = ok(await api.get("/sandboxes?page=9&limit=1"));
    assert.deepEqual((json as { data: unknown[] }).data, []);
    assert.equal((json as { meta: Json }).meta["page"], 9);
    assert.equal((json as { meta: Json }).meta["has_next_page"], false);
  });
}

export function previews(scene: Scene): void {
  const { api, ok, open } = scene;
  test("a port is exposed once it answers, always under the same name, and pages carry no brand but the tenant's", async () => {
    const at = `/sandboxes/${scene.box}`;
    ok(await api.post(`${at}/fs/write`, { path: "/workspace/server.js", content: server(1) }), 201);
    ok(await api.post(`${at}/services`, { name: "web", command: "node server.js", port: 3000 }), 201);
    const first = inside(ok(await api.post(`${at}/expose`, { port: 3000 })), "T") as Json;
    assertShape(first, shapes.expose, "expose");
    const again = data(ok(await api.post(`${at}/expose`, { port: 3000 })));
    assert.deepEqual([again["url"], again["preview_id"]], [first["url"], first["preview_id"]]);
    const stable = data(ok(await api.post(`${at}/expose`, {})));
    assert.equal(stable["url"], data(await api.get(at))["preview_url"]);
    for (const { url } of [first, stable]) assert.equal((await open(String(url))).text, "version 1");
    const rows = inside(ok(await api.get(`${at}/previews`)), "L") as Json[];
    assertShape(rows[0], shapes.preview, "preview");
    const status = inside(ok(await api.get(`${at}/previews/${first["preview_id"]}/status`)), "D");
    assertShape(status, { process: "object", tls: "object", sandbox: "object" }, "preview status");
    const host = new URL(String(first["url"]));
    assert.equal(
      (await open(`${host.protocol}//nobody.sandbox.${host.host.split(".sandbox.")[1]}`)).status,
      404,
    );
    ok(await api.post(`${at}/processes`, { command: "true" }), 201);
  });
}

export function databases(scene: Scene): void {
  const { api, ok, refused, seen } = scene;
  test("a database becomes ready, hands out one set of credentials, attaches, rotates and restarts", async () => {
    const made = ok(
      await api.create("/databases", { name: "ciq-pg", engine: "postgres", region: null }),
      201,
    );
    assertShape(inside(made, "D"), shapes.database, "new database");
    const at = `/databases/${data(made)["id"]}`;
    const early = await api.get(`${at}/credentials`);
    if (early.status !== 200) assert.equal(refused(early, 409, "DATABASE_NOT_READY")["retryable"], true);
    const ready = await api.until(at, (json) => (json["data"] as Json)["state"] === "running");
    const database = inside(ready, "D") as Json;
    assertShape(database, { ...shapes.database, host: "string", port: "number" }, "database");
    assert.equal(database["status"], "running");
    assert.equal((database["connection_test"] as Json)["status"], "ok");
    assert.equal(database["engine"], "postgresql");
    const credentials = inside(ok(await api.get(`${at}/credentials`)), "D") as Json;
    assertShape(credentials, shapes.credentials, "credentials");
    assert.match(String(credentials["url"]), /^postgresql:\/\//);
    seen.push({
      where: "the database's certificate",
      text: await certificateOf(String(credentials["host"]), Number(credentials["port"])),
    });
    const rotated = inside(ok(await api.post(`${at}/rotate`)), "D") as Json;
    assertShape(rotated, shapes.credentials, "rotated credentials");
    assert.notEqual(rotated["password"], credentials["password"]);
    const attached = inside(
      ok(await api.post(`/sandboxes/${scene.box}/database`, { database_id: database["id"] })),
      "D",
    ) as Json;
    assertShape(
      attached,
      { attached: "boolean", sandbox_id: "uuid", database_id: "uuid", env_vars: "array" },
      "attached",
    );
    assert.ok(!JSON.stringify(attached).includes(String(rotated["password"])));
    const logs = ok(await api.get(`${at}/logs?lines=5`)).json as { data: Json; lines: unknown[] };
    assertShape(logs.data, { database_id: "uuid", logs: "array" }, "logs");
    assert.ok(Array.isArray(logs.lines));
    const followed = await api.stream(`${at}/logs/stream`, ({ events }) => events.length > 0);
    assertShape(
      followed.events[0]?.data,
      { type: "string", line: "string", message: "string", stream: "string", level: "string" },
      "log line",
    );
    assertShape(
      inside(ok(await api.get(`${at}/metrics`)), "D"),
      { resource_type: "string", database_id: "uuid", current: "object", series: "object" },
      "metrics",
    );
    assert.ok(Array.isArray(inside(ok(await api.get(`${at}/backups`)), "L")));
    ok(await api.post(`${at}/restart`));
    await api.until(at, (json) => (json["data"] as Json)["state"] === "running");
  });
}

export function releases(scene: Scene): void {
  const { api, ok, refused, open, seen } = scene;
  let deployment = "";
  const at = () => `/deployments/${deployment}`;
  const published: Json[] = [];

  test("a sandbox is published: ids at the top level and in data, a digest, and the app behind the URL", async () => {
    const made = await api.create(`/sandboxes/${scene.box}/publish`, {
      name: "ciq",
      deployment_type: "dynamic",
      run_command: "node server.js",
      port: 3000,
      domain: null,
    });
    ok(made, 201);
    const json = made.json as Json;
    assertShape(
      json,
      {
        deployment_id: "uuid",
        version_id: "uuid",
        release_id: "uuid",
        url: "url",
        state: "string",
        data: "object",
      },
      "publish",
    );
    const parts = json["data"] as Record<"deployment" | "version" | "release", Json>;
    deployment = String(parts.deployment["id"]);
    assert.equal(json["deployment_id"], deployment);
    assertShape(parts.deployment, shapes.deployment, "deployment");
    assertShape(parts.version, shapes.version, "version");
    assertShape(parts.release, shapes.release, "release");
    assert.equal(parts.release["state"], "active");
    assert.equal(parts.release["artifact_sha256"], parts.deployment["running_artifact_sha256"]);
    assert.equal((parts as unknown as Json)["promotion_pending"], false);
    published.push(parts as unknown as Json);
    assert.equal((await open(String(json["url"]))).text, "version 1");
    const environment = await open(String(json["url"]), "/env");
    assert.ok((environment.json as Json)["DATABASE_URL"], "the sandbox's database came along");
    seen.push({ where: "the environment of a deployed app", text: environment.text });
  });

  test("a static publish that fails is a 422 with its step, and the deployment serves on", async () => {
    const before = data(ok(await api.get(at())));
    const error = refused(
      await api.create(`${at()}/publish`, {
        source_sandbox_id: scene.box,
        kind: "static",
        output_path: "dist",
      }),
      422,
      "STATIC_OUTPUT_NOT_FOUND",
    );
    assertShape(error["details"], { step: "string", output_path: "string", looked_in: "array" }, "details");
    const after = data(ok(await api.get(at())));
    assert.deepEqual([after["state"], after["active_release_id"]], ["running", before["active_release_id"]]);
    assert.equal((await open(String(after["public_url"]))).text, "version 1");
  });

  test("a candidate is promoted, and a rollback moves back to the first release", async () => {
    const write = { path: "/workspace/server.js", content_base64: Buffer.from(server(2)).toString("base64") };
    ok(await api.post(`/sandboxes/${scene.box}/fs/write`, write), 201);
    const made = ok(
      await api.create(`${at()}/publish`, {
        source_sandbox_id: scene.box,
        kind: "dynamic",
        run_command: "node server.js",
        port: 3000,
        promote: false,
      }),
    );
    const { release, version, promoted } = inside(made, "D") as {
      release: Json;
      version: Json;
      promoted: boolean;
    };
    assert.deepEqual([promoted, release["state"]], [false, "ready"]);
    const url = String(data(ok(await api.get(at())))["public_url"]);
    assert.equal((await open(url)).text, "version 1");
    const moved = inside(
      ok(
        await api.create(
          `${at()}/releases/${release["id"]}/promote`,
          {},
          `promote:${deployment}:${release["id"]}`,
        ),
      ),
      "D",
    ) as Json;
    assertShape(moved, shapes.deployment, "promoted");
    assert.deepEqual(
      [moved["active_version_id"], moved["running_artifact_sha256"]],
      [version["id"], release["artifact_sha256"]],
    );
    assert.equal((await open(url)).text, "version 2");
    const first = published[0] as { release: Json; version: Json };
    const back = inside(ok(await api.create(`${at()}/rollback`, {})), "D") as Json;
    assert.deepEqual(
      [back["active_release_id"], back["active_version_id"]],
      [first.release["id"], first.version["id"]],
    );
    assert.equal((await open(url)).text, "version 1");
  });

  test("versions, releases, instances, builds, environment and logs of a deployment have their shapes", async () => {
    const list = async (path: string) => inside(ok(await api.get(`${at()}/${path}`)), "L") as Json[];
    const one = async (path: string) => inside(ok(await api.get(`${at()}/${path}`)), "D") as Json;
    const [version] = await list("versions");
    assertShape(await one(`versions/${version!["id"]}`), shapes.version, "version");
    const [release] = await list("releases");
    assertShape(await one(`releases/${release!["id"]}`), shapes.release, "release");
    const [instance] = await list("runtime-instances");
    assertShape(await one(`runtime-instances/${instance!["id"]}`), shapes.instance, "instance");
    assertShape(
      await one(`runtime-instances/${instance!["id"]}/logs`),
      { logs: "array", runtime_instance_id: "uuid", deployment_id: "uuid" },
      "instance logs",
    );
    const [build] = await list("builds");
    assertShape(await one(`builds/${build!["id"]}`), shapes.build, "build");
    const followed = await api.stream(`${at()}/builds/${build!["id"]}/logs`, () => false);
    assert.deepEqual(followed.events.at(-1)?.data, { type: "done", result: { state: "succeeded" } });
    const line = followed.events.find(({ event }) => event === "log_line");
    if (line)
      assertShape(line.data, { type: "string", stream: "string", line: "string", ts: "time" }, "log line");
    const variables = inside(
      ok(await api.post(`${at()}/env`, { env: { TOKEN: "production-token" } })),
      "L",
    ) as Json[];
    assertShape(
      variables.find((row) => row["name"] === "TOKEN"),
      { name: "string", preview: "string", created_at: "time", updated_at: "time" },
      "variable",
    );
    assert.ok(!JSON.stringify(variables).includes("production-token"));
    ok(await api.call("DELETE", `${at()}/env/TOKEN`));
    assertShape(await one("logs?lines=5"), { lines: "array" }, "logs");
    const { logs } = inside(ok(await api.get(`${at()}/request-logs`)), "T") as { logs: Json[] };
    assertShape(
      logs[0],
      { timestamp: "time", method: "string", path: "string", status: "number", duration_ms: "number" },
      "request log",
    );
    assertShape(
      await one("metrics"),
      {
        resource_type: "string",
        deployment_id: "uuid",
        window: "string",
        current: "object",
        series: "object",
      },
      "metrics",
    );
    assertShape(
      inside(ok(await api.call("PATCH", at(), { body: { name: "ciq 2" } })), "D"),
      shapes.deployment,
      "changed",
    );
  });

  test("a redeploy is accepted at once and can be followed; stop and delete end the deployment", async () => {
    const build = inside(ok(await api.create(`${at()}/redeploy`, {}), 202), "D") as Json;
    assertShape(build, { ...shapes.build, tenant_id: "uuid", name: "string", slug: "string" }, "redeploy");
    await api.until(
      `${at()}/builds/${build["id"]}`,
      (json) => (json["data"] as Json)["state"] === "succeeded",
    );
    // The move of traffic follows the build; a stop before its end would race with it.
    await api.until(at(), (json) => {
      const now = json["data"] as Json;
      return (
        (now["promotion"] as Json)["state"] === "succeeded" &&
        now["active_release_id"] === build["release_id"]
      );
    });
    assert.equal((await open(String(build["public_url"]))).text, "version 1");
    assert.equal(data(ok(await api.post(`${at()}/stop`)))["state"], "stopped");
    assert.deepEqual(inside(ok(await api.call("DELETE", at())), "D"), { id: deployment, deleted: true });
    refused(await api.get(at()), 404, "NOT_FOUND");
  });
}

export function events(scene: Scene): void {
  const { api, ok, seen } = scene;
  test("the tenant's stream carried typed events with ids, and a heartbeat comment", async () => {
    const { events: heard, comments } = await scene.tenantEvents;
    assert.ok(comments.length > 0, "no heartbeat within 40 seconds");
    const types = heard.map(({ event }) => event);
    assert.ok(
      types.includes("sandbox.created") && types.every((type) => type?.startsWith("sandbox.")),
      types.join(),
    );
    for (const { event, id, data: payload } of heard) {
      assert.equal(payload["type"], event);
      assert.ok(id);
    }
  });

  test("a command's environment can be read for the sweep", async () => {
    const { stdout } = data(
      ok(await api.post(`/sandboxes/${scene.box}/exec`, { command: "env; id -un; hostname" })),
    );
    seen.push({ where: "the environment inside a sandbox", text: String(stdout) });
    assert.match(String(stdout), /^HOME=/m);
  });
}

export const lifecycle = { idempotency, pagination, previews, databases, releases, events };
