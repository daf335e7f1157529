import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createLog, waitFor } from "@platform/daemon";
import { request } from "undici";
import { Rig } from "../testing/rig.ts";
import { AccessFile, Metrics } from "./index.ts";

const token = "token-of-the-collector";

test("a request is one line with its release, and the id that the app saw; the same goes to the control plane", async (t) => {
  const rig = await Rig.start();
  t.after(() => rig.stop());
  const seen: unknown[] = [];
  const app = await rig.app((req, res) => {
    seen.push(req.headers["x-request-id"]);
    res.end("hello");
  });
  await rig.publish({ "app.clinic.test": app.target });
  await rig.fetch("app.clinic.test", "/path?secret=1");
  const given = await rig.fetch("app.clinic.test", "/", { headers: { "x-request-id": "from-the-client" } });
  assert.equal(given.status, 200);
  assert.equal(seen[1], "from-the-client");
  const lines = await waitFor(
    "the access log",
    async () => {
      const text = await readFile(join(rig.folder, "edge", "access.log"), "utf8");
      const found = text.trim().split("\n");
      const parsed = found.map((line) => JSON.parse(line) as Record<string, unknown>);
      // HAProxy's lines come after the Node edge's.
      return (
        found.length >= 2 &&
        parsed.sort((a, b) => (a["requestId"] === seen[0] ? -1 : b["requestId"] === seen[0] ? 1 : 0))
      );
    },
    20_000,
  );
  const { requestId, path, status, deploymentId, bytes, durationMs, tenantId } = lines[0]!;
  assert.equal(requestId, seen[0]);
  assert.equal(path, "/path", "a query may hold secrets");
  assert.equal(status, 200);
  assert.equal(deploymentId, "deployment-of-app.clinic.test");
  assert.equal(tenantId, "tenant-1");
  assert.ok(Number(bytes) > "hello".length && Number(durationMs) > 0);
  await waitFor("the batch", () => rig.controlPlane.batches.flat().length >= 2, 20_000);
  const sent = rig.controlPlane.batches.flat();
  assert.deepEqual(sent.map((entry) => entry.requestId).sort(), seen.toSorted());
  assert.equal(sent.find((entry) => entry.requestId === requestId)!.bytes, bytes);
});

test("metrics are the operator's: on loopback, with a token, as Prometheus reads them", async (t) => {
  const rig = await Rig.start({ EDGE_METRICS_PORT: "0", EDGE_METRICS_TOKEN: token });
  t.after(() => rig.stop());
  const app = await rig.app((req, res) => res.writeHead(req.url === "/bad" ? 500 : 200).end("x"));
  await rig.publish({ "app.clinic.test": app.target });
  for (const path of ["/", "/", "/bad"]) await rig.fetch("app.clinic.test", path);
  const url = `http://127.0.0.1:${rig.edge.metricsPort}/metrics`;
  for (const headers of [{}, { authorization: "Bearer wrong" }]) {
    const refused = await request(url, { headers });
    await refused.body.dump();
    assert.equal(refused.statusCode, 401);
  }
  const ask = async () => (await request(url, { headers: { authorization: `Bearer ${token}` } })).body.text();
  const text = await waitFor(
    "three requests",
    async () => {
      const found = await ask();
      return /_count\{app="deployment:[^}]*\} 3\n/.test(found) && found;
    },
    20_000,
  );
  const labels = 'app="deployment:deployment-of-app.clinic.test",tenant="tenant-1"';
  assert.ok(text.includes(`edge_requests_total{${labels},status="2xx"} 2\n`), text);
  assert.ok(text.includes(`edge_requests_total{${labels},status="5xx"} 1\n`));
  assert.ok(text.includes(`edge_request_duration_seconds_bucket{${labels},le="+Inf"} 3\n`));
  assert.match(text, /edge_routes 1\n/);
});

test("series and files stay bounded, whatever comes", async (t) => {
  const metrics = new Metrics();
  for (let i = 0; i < 6_000; i++)
    metrics.add({ tenantId: 'a"b', app: `deployment:${i}`, status: 200, durationMs: 1e9, bytes: 1 });
  const text = metrics.text();
  assert.equal(text.match(/edge_response_bytes_total\{/g)?.length, 5_000);
  assert.match(text, /edge_evicted_apps_total 1000\n/);
  assert.match(text, /tenant="a\\"b"/);

  const folder = await mkdtemp(join(tmpdir(), "edge-access-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, "access.log");
  const file = new AccessFile({ path, log: createLog("test", "silent"), maxFileBytes: 10_000 });
  for (let i = 0; i < 100; i++) {
    file.add({ number: i, path: "x".repeat(500) });
    await file.flush();
  }
  await file.stop();
  for (const name of [path, `${path}.1`]) assert.ok((await stat(name)).size <= 10_000, name);
  assert.match(await readFile(path, "utf8"), /"number":99,/);
  assert.equal(file.dropped, 0);
});
