import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { brand } from "../testing/control-plane.ts";
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
  table.apply({ version: 1, full: true, brands, routes: [], removed: [] });
  assert.equal(table.brandOf("x.eu.clinic.test")?.name, "EU");
  assert.equal(table.brandOf("x.clinic.test")?.name, brand.name);
  assert.equal(table.brandOf("evilclinic.test"), null);
});

test("a local copy comes back as written, and one that was changed is refused", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "edge-copy-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const copy = new LocalCopy(folder, "secret-of-the-edge");
  assert.equal(await copy.read(), null);
  const content = { version: 7, brands: [brand], routes: [] };
  await copy.write(content);
  assert.deepEqual(await copy.read(), content);
  await assert.rejects(new LocalCopy(folder, "another secret").read(), LocalCopyRefused);
  const path = join(folder, "routes.json");
  await writeFile(path, (await readFile(path, "utf8")).replace("clinic.test", "attack.test"));
  await assert.rejects(copy.read(), LocalCopyRefused);
  await writeFile(path, '{"mac":');
  await assert.rejects(copy.read(), LocalCopyRefused);
});

test("a version is acknowledged only after it is on disk", async (t) => {
  const rig = await Rig.start();
  t.after(() => rig.stop());
  const path = join(rig.folder, "edge", "routes.json");
  const onDisk: Promise<number>[] = [];
  rig.controlPlane.onPoll = (applied) => {
    if (applied === 0) return;
    onDisk.push(
      readFile(path, "utf8").then((text) => {
        const { payload } = JSON.parse(text) as { payload: string };
        return (JSON.parse(payload) as { version: number }).version;
      }),
    );
  };
  await rig.publish({ "a.clinic.test": { type: "page", page: "stopped", detail: null } });
  await rig.publish({ "b.clinic.test": { type: "page", page: "stopped", detail: null } });
  assert.deepEqual(await Promise.all(onDisk), [1, 2]);
  assert.deepEqual(rig.controlPlane.acknowledged, [0, 1, 2]);
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
  assert.equal((await rig.fetch("app.clinic.test")).status, 404);
  assert.match(rig.edge.log(), /signature does not match/);
  await rig.controlPlane.start();
  await waitFor("routes", async () => (await rig.fetch("app.clinic.test")).status === 503, 15_000);
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
