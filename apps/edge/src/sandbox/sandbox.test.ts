import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { RequestListener } from "node:http";
import { after, before, test } from "node:test";
import { waitFor } from "@platform/daemon";
import { sandboxRouteHostname, sandboxToken, type RouteTarget } from "@platform/edge-api";
import { EDGE_TOKEN } from "../testing/control-plane.ts";
import { Rig } from "../testing/rig.ts";

let rig: Rig;
before(async () => {
  rig = await Rig.start();
});
after(() => rig.stop());

const domain = "sandbox.clinic.test";
let made = 0;

type SandboxTarget = RouteTarget & { type: "sandbox" };

/** A sandbox whose agent and whose port 3000 are these. */
async function sandbox(agent: RequestListener, app: RequestListener, over: Partial<SandboxTarget> = {}) {
  const id = `00000000-0000-4000-8000-${String(++made).padStart(12, "0")}`;
  const boxKey = `sb-${id}`;
  for (const [door, listener] of [
    ["agent", agent],
    ["any-3000", app],
  ] as const) {
    const { upstream } = await rig.app(listener);
    rig.host.ports.set(`${boxKey}:${door}`, rig.host.ports.get(`${upstream.boxKey}:${upstream.port}`)!);
  }
  const target: SandboxTarget = {
    type: "sandbox",
    sandboxId: id,
    upstream: { hostUrl: rig.host.url, boxKey },
    state: "running",
    wakes: false,
    guestAccess: "token",
    trafficAccess: "public",
    rewriteHost: null,
    ...over,
  };
  const publish = (more: Partial<SandboxTarget>) =>
    rig.publish({ [sandboxRouteHostname(id, domain)]: { ...target, ...more } });
  await publish({});
  const token = (kind: "guest" | "traffic") => sandboxToken(EDGE_TOKEN, kind, id);
  return { id, token, publish, host: (port: number) => `${port}-${id}.${domain}` };
}

const echo: RequestListener = (req, res) => res.end(JSON.stringify({ url: req.url, headers: req.headers }));
const never: RequestListener = (_req, res) => res.writeHead(500).end("reached");
const headersOf = (body: string) => (JSON.parse(body) as { headers: Record<string, string> }).headers;

test("each port of a sandbox has a name, without a route of its own and without the client's secrets", async () => {
  const box = await sandbox(never, echo);
  const answer = await rig.fetch(box.host(3000), "/path?x=1", {
    headers: { "x-access-token": "secret", "e2b-sandbox-id": box.id, "x-public-door": "1" },
  });
  assert.equal(answer.status, 200);
  const headers = headersOf(answer.body);
  assert.equal(headers["host"], box.host(3000));
  for (const name of ["x-access-token", "e2b-sandbox-id", "x-public-door"])
    assert.equal(headers[name], undefined);
  const named = await rig.fetch(domain, "/", {
    headers: { "e2b-sandbox-id": box.id, "e2b-sandbox-port": "3000" },
  });
  assert.equal(named.status, 200);
});

test("the agent is reached with the token, and only where its clients may", async () => {
  const box = await sandbox(echo, never);
  const host = box.host(49983);
  const headers = { "x-access-token": box.token("guest") };
  const answer = await rig.fetch(host, "/process.Process/List", { method: "POST", headers, body: "{}" });
  assert.equal(answer.status, 200);
  assert.equal(headersOf(answer.body)["x-public-door"], "1");
  for (const [method, path] of [
    ["GET", "/services"],
    ["PUT", "/config"],
    ["POST", "/init"],
    ["GET", "/process.Process/List"],
    ["POST", "/process.Process/List/.."],
    ["POST", "//process.Process/List"],
    ["PUT", "/files"],
  ] as const) {
    const refused = await rig.fetch(host, path, { method, headers });
    assert.equal(refused.status, 404, `${method} ${path}`);
  }
  for (const token of ["", "wrong", box.token("traffic")]) {
    const refused = await rig.fetch(host, "/envs", { headers: { "x-access-token": token } });
    assert.deepEqual([refused.status, (JSON.parse(refused.body) as { code: number }).code], [401, 401]);
  }
  assert.equal((await rig.fetch(host, "/health")).status, 200);
  const upgrade = await rig.raw(
    `GET /files?path=a HTTP/1.1\r\nHost: ${host}\r\nX-Access-Token: ${box.token("guest")}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`,
  );
  assert.match(upgrade, /^HTTP\/1.1 404 /);
});

test("a signature opens one file for one operation until its time", async () => {
  const box = await sandbox(echo, never);
  const sign = (path: string, operation: string, expiration: number) => {
    const text = `${path}:${operation}::${box.token("guest")}:${expiration}`;
    const digest = createHash("sha256").update(text).digest("base64").replace(/=+$/, "");
    return `/files?path=${path}&signature=${encodeURIComponent(`v1_${digest}`)}&signature_expiration=${expiration}`;
  };
  const soon = Math.floor(Date.now() / 1000) + 60;
  const ask = async (target: string, method = "GET") =>
    (await rig.fetch(box.host(49983), target, { method })).status;
  assert.equal(await ask(sign("a.txt", "read", soon)), 200);
  assert.equal(await ask(sign("a.txt", "write", soon), "POST"), 200);
  assert.equal(await ask(sign("a.txt", "write", soon)), 401);
  assert.equal(await ask(sign("a.txt", "read", soon), "POST"), 401);
  assert.equal(await ask(sign("a.txt", "read", soon).replace("a.txt", "b.txt")), 401);
  assert.equal(await ask(sign("a.txt", "read", 1_000_000)), 401);
  assert.equal(await ask(sign("a.txt", "read", soon).replace(String(soon), "NaN")), 401);
  assert.equal(await ask(sign("a.txt", "read", soon).replace("/files?", "/envs?")), 401);
});

test("a page of another origin may use a signed address", async () => {
  const box = await sandbox(echo, never);
  const preflight = await rig.fetch(box.host(49983), "/files", {
    method: "OPTIONS",
    headers: { origin: "https://app.test", "access-control-request-headers": "content-type" },
  });
  assert.equal(preflight.status, 204);
  assert.equal(preflight.headers["access-control-allow-headers"], "content-type");
  const health = await rig.fetch(box.host(49983), "/health", { headers: { origin: "https://app.test" } });
  assert.equal(health.headers["access-control-allow-origin"], "*");
});

test("ports that are not public ask for their own token", async () => {
  const box = await sandbox(never, echo, { trafficAccess: "token", rewriteHost: "localhost:${PORT}" });
  assert.equal((await rig.fetch(box.host(3000))).status, 403);
  const wrong = await rig.fetch(box.host(3000), "/", {
    headers: { "e2b-traffic-access-token": box.token("guest") },
  });
  assert.equal(wrong.status, 403);
  const answer = await rig.fetch(box.host(3000), "/", {
    headers: { "e2b-traffic-access-token": box.token("traffic") },
  });
  assert.equal(headersOf(answer.body)["host"], "localhost:3000");
  assert.equal(headersOf(answer.body)["e2b-traffic-access-token"], undefined);
});

test("what does not run says 502 in the form that clients read, and as a branded page to people", async () => {
  const box = await sandbox(echo, echo);
  const unknown = box.host(3000).replace("8000-0", "8000-f");
  const gone = await rig.fetch(unknown);
  assert.equal(gone.status, 502);
  assert.match(gone.body, /"message":"The sandbox was not found","code":502/);
  rig.host.ports.set(`sb-${box.id}:any-4000`, 1);
  const closed = await rig.fetch(box.host(4000));
  assert.equal(closed.status, 502);
  assert.deepEqual(JSON.parse(closed.body), {
    sandboxId: box.id,
    message: "The sandbox is running but port is not open",
    port: 4000,
    code: 502,
  });
  const page = await rig.fetch(box.host(4000), "/", { headers: { accept: "text/html" } });
  assert.match(page.body, /Clinic &lt;IQ&gt;/);
  assert.doesNotMatch(page.body + closed.body, /e2b|envd/i);
});

test("the agent interprets code where no program of the sandbox does, for whoever has its token", async () => {
  const box = await sandbox(echo, never);
  rig.host.ports.set(`sb-${box.id}:any-49999`, 1);
  const run = (headers: Record<string, string>, path = "/execute?source=x", method = "POST") =>
    rig.fetch(box.host(49_999), path, { method, headers, body: "{}" });
  const ran = await run({ "x-access-token": box.token("guest") });
  assert.equal(ran.status, 200);
  assert.equal((JSON.parse(ran.body) as { url: string }).url, "/interpreter/execute?source=x");
  assert.equal(headersOf(ran.body)["x-public-door"], "1");
  assert.equal((await run({})).status, 401);
  assert.equal((await run({ "x-access-token": "another" })).status, 401);
  assert.equal((await run({}, "/contexts")).status, 200);
  // Nothing else of the agent is behind that port.
  for (const path of ["/files?path=/etc/passwd", "/../config", "/contexts/a/b", "/interpreter/execute"])
    assert.equal((await run({ "x-access-token": box.token("guest") }, path)).status, 502, path);
  const own = await rig.app((_req, res) => res.end("own"));
  rig.host.ports.set(`sb-${box.id}:any-49999`, rig.host.ports.get(`${own.upstream.boxKey}:3000`)!);
  assert.equal((await run({})).body, "own");
});

test("traffic wakes a paused sandbox that wants it, and another stays asleep", async () => {
  const asleep = await sandbox(echo, never, { state: "paused" });
  assert.equal((await rig.fetch(asleep.host(49983), "/health")).status, 502);
  const waking = await sandbox(echo, never, { state: "paused", wakes: true });
  const held = rig.fetch(waking.host(49983), "/health");
  const name = sandboxRouteHostname(waking.id, domain);
  await waitFor("the wake call", () => rig.controlPlane.wakes.includes(name), 5_000);
  await waking.publish({ state: "running" });
  assert.equal((await held).status, 200);
  assert.ok(!rig.controlPlane.wakes.includes(sandboxRouteHostname(asleep.id, domain)));
});

test("a sandbox that its owner's limits keep asleep is told as that, at once", async (t) => {
  t.after(() => (rig.controlPlane.wakeAnswer = {}));
  rig.controlPlane.wakeAnswer = { refused: "over_quota" };
  const asleep = await sandbox(echo, never, { state: "paused", wakes: true });
  const answer = await rig.fetch(asleep.host(3000));
  assert.equal(answer.status, 503);
  assert.equal((JSON.parse(answer.body) as { code: string }).code, "OVER_QUOTA");
});

test("no other route takes the place of a sandbox's name", async () => {
  const box = await sandbox(never, (_req, res) => res.end("the sandbox"));
  const thief = await rig.app((_req, res) => res.end("another"));
  await rig.publish({ [box.host(3000)]: thief.target });
  assert.equal((await rig.fetch(box.host(3000))).body, "the sandbox");
});
