import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { waitFor } from "@platform/daemon";
import { boxes, Rig } from "../testing/rig.ts";

let rig: Rig;
before(async () => {
  rig = await Rig.start();
});
after(() => rig.stop());

const html = { accept: "text/html,application/xhtml+xml,*/*;q=0.8" };

test("a refused app is a branded page to a browser, a problem to a program, nothing to a script tag", async () => {
  const app = await rig.app((_req, res) => res.end());
  await app.stop();
  await rig.publish({ "down.clinic.test": boxes(app.upstream) });
  const page = await rig.fetch("down.clinic.test", "/", { headers: { ...html, "x-request-id": "r-1" } });
  assert.equal(page.status, 502);
  assert.match(page.headers["content-type"]!, /^text\/html/);
  assert.match(page.body, /Clinic &lt;IQ&gt;/);
  assert.match(page.body, /r-1/);
  assert.match(page.body, /https:\/\/clinic\.test\/help/);
  assert.equal(page.headers["cache-control"], "no-store");

  const problem = await rig.fetch("down.clinic.test", "/", { headers: { "x-request-id": "r-2" } });
  assert.match(problem.headers["content-type"]!, /json/);
  const body = JSON.parse(problem.body) as Record<string, unknown> & { error: Record<string, unknown> };
  assert.equal(body.error["code"], "APP_UNREACHABLE");
  assert.equal(body.error["request_id"], "r-2");
  assert.equal(body["status"], 502);
  assert.equal(body["type"], "https://clinic.test/problems/APP_UNREACHABLE");

  const script = await rig.fetch("down.clinic.test", "/a.js", {
    headers: { accept: "*/*", "sec-fetch-dest": "script" },
  });
  assert.equal(script.status, 502);
  assert.match(script.headers["content-type"]!, /javascript/);
  assert.equal(script.body, "");
});

test("an unknown name gets the brand of its suffix, or no name at all", async () => {
  assert.match((await rig.fetch("nobody.clinic.test", "/", { headers: html })).body, /Clinic &lt;IQ&gt;/);
  const neutral = await rig.fetch("nobody.example", "/", { headers: html });
  assert.equal(neutral.status, 404);
  assert.doesNotMatch(neutral.body, /Clinic|support/i);
});

test("a page target shows its state; starting reloads itself", async () => {
  await rig.publish({
    "s.clinic.test": { type: "page", page: "starting", detail: null },
    "m.clinic.test": { type: "page", page: "maintenance", detail: "Back <soon>" },
  });
  const starting = await rig.fetch("s.clinic.test", "/", { headers: html });
  assert.equal(starting.status, 503);
  assert.equal(starting.headers["retry-after"], "2");
  assert.match(starting.body, /http-equiv="refresh"/);
  assert.match((await rig.fetch("m.clinic.test", "/", { headers: html })).body, /Back &lt;soon&gt;/);
});

test("a sleeping app is woken once; a browser sees it start, a program waits for it", async () => {
  const app = await rig.app((req, res) => req.pipe(res));
  await rig.publish({ "sleep.clinic.test": { type: "wake", accessSha256: null } });
  const page = await rig.fetch("sleep.clinic.test", "/", { headers: html });
  assert.equal(page.status, 503);
  const held = rig.fetch("sleep.clinic.test", "/", { method: "POST", body: "kept" });
  await waitFor("wake", () => rig.controlPlane.wakes.includes("sleep.clinic.test"), 5_000);
  await rig.publish({ "sleep.clinic.test": app.target });
  assert.equal((await held).body, "kept");
});

test("an app that its owner's limits keep from waking says so, to people and programs, until they allow it", async () => {
  const app = await rig.app((_req, res) => res.end("awake"));
  rig.controlPlane.wakeAnswer = { refused: "over_quota" };
  await rig.publish({ "limit.clinic.test": { type: "wake", accessSha256: null } });
  const program = await rig.fetch("limit.clinic.test", "/", { headers: { accept: "application/json" } });
  assert.equal(program.status, 503);
  assert.equal((JSON.parse(program.body) as { code: string }).code, "OVER_QUOTA");
  const page = await rig.fetch("limit.clinic.test", "/", { headers: html });
  assert.equal(page.status, 503);
  assert.match(page.body, /has reached its limit/);
  assert.match(page.body, /Clinic/);
  rig.controlPlane.wakeAnswer = {};
  const isStarting = async () =>
    /is starting/i.test((await rig.fetch("limit.clinic.test", "/", { headers: html })).body) || undefined;
  await waitFor("the page of an app that starts", isStarting, 20_000, 200);
  await rig.publish({ "limit.clinic.test": app.target });
  assert.equal((await rig.fetch("limit.clinic.test")).body, "awake");
});

test("requests are reported in batches, without query, also after the control plane refused some", async () => {
  const app = await rig.app((_req, res) => res.writeHead(201).end("x"));
  await rig.publish({ "log.clinic.test": app.target });
  rig.controlPlane.refuseBatches = true;
  await rig.fetch("log.clinic.test", "/a?secret=1", { headers: { "x-request-id": "log-1" } });
  await waitFor("a refusal", () => rig.edge.log().includes("could not be delivered"), 10_000);
  rig.controlPlane.refuseBatches = false;
  const find = () => rig.controlPlane.batches.flat().find(({ requestId }) => requestId === "log-1");
  const entry = await waitFor("the entry", find, 10_000);
  assert.equal(entry.path, "/a");
  assert.equal(entry.status, 201);
  assert.equal(entry.deploymentId, "deployment-of-log.clinic.test");
  assert.doesNotMatch(rig.edge.log(), /secret=1/);
});
