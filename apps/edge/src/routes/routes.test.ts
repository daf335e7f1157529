import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { edgeLeaseMs, type Route, type RouteUpdate } from "@platform/edge-api";
import { brand, EDGE_TOKEN } from "../testing/control-plane.ts";
import { Rig } from "../testing/rig.ts";
import { LocalCopy, LocalCopyRefused, normalizeHostname, RouteTable } from "./index.ts";

test("a host name is compared without case, port and trailing dot", () => {
  assert.equal(normalizeHostname("App.Clinic.TEST.:8080"), "app.clinic.test");
  assert.equal(normalizeHostname("xn--mnchen-3ya.test"), "xn--mnchen-3ya.test");
  assert.equal(normalizeHostname("[::1]:80"), "::1");
  for (const bad of ["", "a b", "a/b", "a@b", "a..b", "host:port", "[x]", ".", "a:1:2", "-a.test"]) {
    assert.equal(normalizeHostname(bad), null, bad);
  }
});

test("the longest brand domain owns an unknown host name", () => {
  const table = new RouteTable();
  const brands = [brand, { ...brand, tenantId: "tenant-2", domain: "eu.clinic.test", name: "EU" }];
  table.apply({ version: 1, full: true, brands, routes: [], removed: [], witnesses: [] });
  assert.equal(table.brandOf("x.eu.clinic.test")?.name, "EU");
  assert.equal(table.brandOf("x.clinic.test")?.name, brand.name);
  assert.equal(table.brandOf("evilclinic.test"), null);
});

const page = (hostname: string): Route => ({
  hostname,
  tenantId: brand.tenantId,
  kind: "deployment",
  target: { type: "page", page: "stopped", detail: null },
  deploymentId: null,
  releaseId: null,
  sandboxId: null,
});
const change = (version: number, hostname: string): RouteUpdate => ({
  ...{ version, full: false, brands: [brand], routes: [page(hostname)], removed: [] },
  witnesses: ["http://127.0.0.1:1"],
});

async function copyWithChanges(t: TestContext) {
  const folder = await mkdtemp(join(tmpdir(), "edge-copy-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const copy = new LocalCopy(folder, "secret-of-the-edge");
  assert.equal(await copy.read(), null);
  await copy.write({ version: 7, brands: [brand], routes: [page("a.test")], witnesses: [] });
  const whole = () => assert.fail("the whole table is not written again");
  await copy.append(7, change(8, "b.test"), whole);
  await copy.append(8, { ...change(10, "c.test"), removed: ["a.test"] }, whole);
  const path = (name: string) => join(folder, name);
  const edit = async (name: string, by: (text: string) => string) =>
    writeFile(path(name), by(await readFile(path(name), "utf8")));
  const read = () => new LocalCopy(folder, "secret-of-the-edge").read();
  return { folder, path, edit, read };
}

test("a local copy comes back as written, changes included", async (t) => {
  const { read, edit, folder } = await copyWithChanges(t);
  const content = await read();
  assert.equal(content?.version, 10);
  assert.deepEqual(
    content.routes.map(({ hostname }) => hostname),
    ["b.test", "c.test"],
  );
  assert.deepEqual(content.witnesses, ["http://127.0.0.1:1"]);
  await edit("routes.log", (text) => `${text}{"mac":"00`);
  assert.equal((await read())?.version, 10, "a change that a crash cut short never counted");
  await assert.rejects(new LocalCopy(folder, "another secret").read(), LocalCopyRefused);
});

test("a local copy that was tampered with is refused, and so is an older one", async (t) => {
  const changes: [string, string, (text: string) => string][] = [
    ["a table that was edited", "routes.json", (text) => text.replace("a.test", "z.test")],
    ["half a table", "routes.json", () => '{"mac":'],
    ["a change that was edited", "routes.log", (text) => text.replace("b.test", "z.test")],
    ["a change taken out", "routes.log", (text) => text.slice(text.indexOf("\n") + 1)],
    ["the newest change taken off", "routes.log", (text) => text.slice(0, text.indexOf("\n") + 1)],
    ["no changes at all", "routes.log", () => ""],
    ["a seal that was edited", "routes.seal", (text) => text.replace("version", "versions")],
  ];
  for (const [what, name, by] of changes) {
    const { read, edit } = await copyWithChanges(t);
    await edit(name, by);
    await assert.rejects(read(), LocalCopyRefused, what);
  }
  const { read, path } = await copyWithChanges(t);
  await rm(path("routes.seal"));
  await assert.rejects(read(), LocalCopyRefused, "no seal");
  const { folder } = await copyWithChanges(t);
  const inFourDays = () => Date.now() + 4 * 86_400_000;
  await assert.rejects(
    new LocalCopy(folder, "secret-of-the-edge", inFourDays).read(),
    /no control plane confirmed it for three days/,
  );
});

test("a version is acknowledged only after it is on disk", async (t) => {
  const rig = await Rig.start();
  t.after(() => rig.stop());
  const onDisk: Promise<number>[] = [];
  rig.controlPlane.onPoll = (applied) => {
    if (applied === 0) return;
    const copy = new LocalCopy(join(rig.folder, "edge"), EDGE_TOKEN);
    // It may be newer by the time that it is read.
    onDisk.push(copy.read().then((content) => Math.min(content?.version ?? 0, applied)));
  };
  await rig.publish({ "a.clinic.test": { type: "page", page: "stopped", detail: null } });
  await rig.publish({ "b.clinic.test": { type: "page", page: "stopped", detail: null } });
  const inOrder = (versions: number[]) => [...new Set(versions)];
  assert.deepEqual(inOrder(await Promise.all(onDisk)), [1, 2]);
  assert.deepEqual(inOrder(rig.controlPlane.acknowledged), [0, 1, 2]);
});

test("with the control plane away an edge serves its local copy, and catches up later", async (t) => {
  const rig = await Rig.start();
  t.after(() => rig.stop());
  const app = await rig.app((_req, res) => res.end("from the app"));
  await rig.publish({ "app.clinic.test": app.target });
  await rig.edge.stop();
  await rig.controlPlane.stop();
  await rig.startEdge();
  assert.equal((await rig.fetch("APP.clinic.test.:1234")).body, "from the app");
  const api = await rig.fetch("127.0.0.1", "/api/v1/x");
  assert.equal(api.status, 503);
  assert.equal((JSON.parse(api.body) as { error: { code: string } }).error.code, "SERVICE_UNAVAILABLE");
  await rig.controlPlane.start();
  await rig.publish({ "app.clinic.test": null });
  assert.equal((await rig.fetch("app.clinic.test")).status, 404);
});

test("a tampered local copy is not served, and the next update replaces it", async (t) => {
  const rig = await Rig.start();
  t.after(() => rig.stop());
  await rig.publish({ "app.clinic.test": { type: "page", page: "maintenance", detail: null } });
  await rig.edge.stop();
  await rig.controlPlane.stop();
  const path = join(rig.folder, "edge", "routes.json");
  await writeFile(path, (await readFile(path, "utf8")).replace("maintenance", "stopped"));
  await rig.startEdge();
  const refused = await rig.fetch("app.clinic.test");
  assert.equal(refused.status, 503, "without routes it cannot say that there is nothing");
  assert.equal(refused.headers["x-edge-page"], "unavailable");
  assert.match(rig.edge.log(), /signature does not match/);
  await rig.controlPlane.start();
  const kind = async () => (await rig.fetch("app.clinic.test")).headers["x-edge-page"];
  await waitFor("routes", async () => (await kind()) === "maintenance", 15_000);
});

test("health tells the version served, on the machine's own name only", async (t) => {
  const rig = await Rig.start();
  t.after(() => rig.stop());
  await rig.publish({ "app.clinic.test": { type: "page", page: "stopped", detail: null } });
  const health = JSON.parse((await rig.fetch("edge.internal", "/healthz")).body) as Record<string, unknown>;
  assert.equal(health["ok"], true);
  assert.equal(health["version"], 1);
  assert.equal(health["routes"], 1);
  assert.equal((await rig.fetch("other.clinic.test", "/healthz")).status, 404);
});

test("with the control plane away, killed edges serve from their copy, also names that nobody asked for before", async (t) => {
  const rig = await Rig.start();
  t.after(() => rig.stop());
  const app = await rig.app((_req, res) => res.end("from the app"));
  await rig.publish({ "app.clinic.test": app.target, "other.clinic.test": app.target });
  await rig.controlPlane.stop();
  rig.edge.child.kill("SIGKILL");
  await rig.edge.exited;
  await rig.startEdge();
  for (const name of ["app", "other", "other"])
    assert.equal((await rig.fetch(`${name}.clinic.test`)).body, "from the app");
  const asked = rig.host.asked.length;
  await waitFor("the host to prolong the lease again", () => rig.host.asked.length > asked + 1, 30_000);
  assert.equal((await rig.fetch("app.clinic.test")).body, "from the app");
  assert.equal((await rig.fetch("edge.internal", "/healthz")).status, 200);
});

test("an edge that hears only a host withdraws what changed without it, and nothing else", async (t) => {
  const rig = await Rig.start();
  t.after(() => rig.stop());
  const app = await rig.app((_req, res) => res.end("from the app"));
  await rig.publish({ "app.clinic.test": app.target, "other.clinic.test": app.target });
  await rig.controlPlane.stop();
  rig.host.standing = { version: 2, hostnames: ["app.clinic.test"] };
  const kind = async (name: string) => (await rig.fetch(name)).headers["x-edge-page"];
  await waitFor("the fence", async () => (await kind("app.clinic.test")) === "unavailable", 30_000);
  assert.equal((await rig.fetch("other.clinic.test")).body, "from the app");
  await rig.controlPlane.start();
  await rig.publish({ "app.clinic.test": { type: "page", page: "stopped", detail: null } });
  assert.equal(await kind("app.clinic.test"), "stopped");
});

test("an edge that hears nobody stops when its lease is over, and goes on when somebody answers", async (t) => {
  const rig = await Rig.start();
  t.after(() => rig.stop());
  await rig.publish({ "app.clinic.test": { type: "page", page: "stopped", detail: null } });
  const kind = async () => (await rig.fetch("app.clinic.test")).headers["x-edge-page"];
  assert.equal(await kind(), "stopped");
  await rig.controlPlane.stop();
  await rig.host.stop();
  await waitFor("the end of the lease", async () => (await kind()) === "unavailable", 30_000);
  assert.equal((await rig.fetch("edge.internal", "/healthz")).status, 503);
  await rig.host.start();
  await waitFor("the host", async () => (await kind()) === "stopped", 30_000);
  assert.equal((await rig.fetch("edge.internal", "/healthz")).status, 200);
});

test("an edge that was stopped in its tracks answers nothing old when it goes on", async (t) => {
  const rig = await Rig.start();
  t.after(() => rig.stop());
  const app = await rig.app((_req, res) => res.end("old"));
  await rig.publish({ "app.clinic.test": app.target });
  assert.equal((await rig.fetch("app.clinic.test")).body, "old");
  rig.edge.child.kill("SIGSTOP");
  const frozenMs = performance.now();
  await waitFor("a lease to run out", () => performance.now() - frozenMs > edgeLeaseMs, edgeLeaseMs * 4);
  // As the control plane does before such a change counts as done.
  rig.host.standing = { version: 2, hostnames: ["app.clinic.test"] };
  rig.controlPlane.publish({ "app.clinic.test": { type: "page", page: "stopped", detail: null } });
  const asked = rig.fetch("app.clinic.test");
  rig.edge.child.kill("SIGCONT");
  assert.notEqual((await asked).body, "old");
  const kind = async () => (await rig.fetch("app.clinic.test")).headers["x-edge-page"];
  await waitFor("the new route", async () => (await kind()) === "stopped", 30_000);
});
