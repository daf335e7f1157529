import assert from "node:assert/strict";
import { once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { after, before, test } from "node:test";
import { waitFor } from "@platform/daemon";
import type { RouteTarget } from "@platform/edge-api";
import { WebSocket, WebSocketServer } from "ws";
import { FrameBorders } from "../proxy/web-socket-frames.ts";
import { Rig, type App } from "../testing/rig.ts";
import { visitorShare } from "./choose.ts";

let rig: Rig;
before(async () => {
  rig = await Rig.start();
});
after(() => rig.stop());

const saying = (name: string, status = 200) =>
  rig.app((req: IncomingMessage, res: ServerResponse) => {
    let size = 0;
    req.on("data", (chunk: Buffer) => (size += chunk.length));
    req.on("end", () => res.writeHead(status).end(`${name} ${size}`));
  });

const other = (releaseId: string, app: App) => ({
  releaseId,
  target: { type: "boxes" as const, upstreams: [app.upstream] },
});

const target = (main: App, more: Partial<Extract<RouteTarget, { type: "boxes" }>>): RouteTarget => ({
  ...(main.target as Extract<RouteTarget, { type: "boxes" }>),
  ...more,
});

async function answersOf(host: string, count: number, options: Parameters<Rig["fetch"]>[2] = {}) {
  const answers = [];
  for (let sent = 0; sent < count; sent++) answers.push(await rig.fetch(host, "/", options));
  return answers;
}

const logged = (host: string, count: number) =>
  waitFor(
    "the request log",
    () => {
      const all = rig.controlPlane.batches.flat().filter(({ hostname }) => hostname === host);
      return all.length >= count && all;
    },
    10_000,
  );

test("a canary of 100 % answers everybody, one of 0 % nobody", async () => {
  const [main, young] = [await saying("main"), await saying("young")];
  const canary = { ...other("r2", young), sticky: "request" as const };
  await rig.publish({ "all.clinic.test": target(main, { canary: { ...canary, percent: 100 } }) });
  for (const { body } of await answersOf("all.clinic.test", 5)) assert.equal(body, "young 0");
  await rig.publish({ "all.clinic.test": target(main, { canary: { ...canary, percent: 0 } }) });
  for (const { body } of await answersOf("all.clinic.test", 5)) assert.equal(body, "main 0");
  const entries = await logged("all.clinic.test", 10);
  assert.equal(entries.filter(({ releaseId }) => releaseId === "r2").length, 5);
});

test("by client, a visitor stays on one side, and in it when the percentage rises", async () => {
  const [main, young] = [await saying("main"), await saying("young")];
  const canary = { ...other("r2", young), sticky: "client" as const };
  const agents = Array.from({ length: 40 }, (_, number) => `visitor ${number}`);
  const sides = async (percent: number) => {
    await rig.publish({ "sticky.clinic.test": target(main, { canary: { ...canary, percent } }) });
    const found = new Map<string, string>();
    for (const agent of agents) {
      const seen = await answersOf("sticky.clinic.test", 2, { headers: { "user-agent": agent } });
      assert.equal(seen[0]!.body, seen[1]!.body);
      found.set(agent, seen[0]!.body);
    }
    return agents.filter((agent) => found.get(agent)!.startsWith("young"));
  };
  const few = await sides(30);
  const many = await sides(80);
  assert.ok(few.length > 0 && few.length < many.length && many.length < agents.length);
  assert.deepEqual(
    few.filter((agent) => !many.includes(agent)),
    [],
  );
  const share = visitorShare("r2", "127.0.0.1 visitor 1");
  assert.ok(share >= 0 && share < 1);
});

test("what a canary answers with 5xx or not at all is answered by the main release, and counted against it", async () => {
  const [main, broken] = [await saying("main"), await saying("young", 503)];
  const canary = { ...other("r2", broken), sticky: "request" as const, percent: 100 };
  await rig.publish({ "broken.clinic.test": target(main, { canary }) });
  for (const { status, body } of await answersOf("broken.clinic.test", 3))
    assert.deepEqual([status, body], [200, "main 0"]);
  const put = await rig.fetch("broken.clinic.test", "/", {
    method: "PUT",
    body: "abc",
    headers: { "content-length": "3" },
  });
  assert.equal(put.body, "main 3");
  // It may have done something: a POST is the app's own to repeat.
  const post = await rig.fetch("broken.clinic.test", "/", {
    method: "POST",
    body: "abc",
    headers: { "content-length": "3" },
  });
  assert.deepEqual([post.status, post.body], [503, "young 3"]);
  await broken.stop();
  const refused = await rig.fetch("broken.clinic.test", "/", {
    method: "POST",
    body: "abc",
    headers: { "content-length": "3" },
  });
  assert.equal(refused.body, "main 3", "a connection that was refused has cost nothing");
  const entries = await logged("broken.clinic.test", 6);
  assert.equal(entries.filter(({ failedReleaseId }) => failedReleaseId === "r2").length, 5);
});

test("while the main release takes no connection, the one before it answers", async () => {
  const [main, before] = [await saying("main"), await saying("before")];
  await rig.publish({ "trial.clinic.test": target(main, { fallback: other("r1", before) }) });
  assert.equal((await rig.fetch("trial.clinic.test")).body, "main 0");
  await main.stop();
  assert.equal((await rig.fetch("trial.clinic.test")).body, "before 0");
  const post = await rig.fetch("trial.clinic.test", "/", {
    method: "POST",
    body: "four",
    headers: { "content-length": "4" },
  });
  assert.equal(post.body, "before 4");
  const entries = await logged("trial.clinic.test", 3);
  assert.equal(entries.filter(({ releaseId }) => releaseId === "r1").length, 2);
});

test("a release that takes no connection is asked five times a second, and serves again once it takes one", async () => {
  const [main, before, again] = [await saying("main"), await saying("before"), await saying("again")];
  const door = ({ upstream }: App) => `${upstream.boxKey}:${upstream.port}`;
  await rig.publish({ "resting.clinic.test": target(main, { fallback: other("r1", before) }) });
  await main.stop();
  assert.equal((await rig.fetch("resting.clinic.test")).body, "before 0");
  rig.host.dialled.clear();
  const startedAt = performance.now();
  const answers = await Promise.all(Array.from({ length: 100 }, () => rig.fetch("resting.clinic.test")));
  const most = 2 + (performance.now() - startedAt) / 200;
  assert.deepEqual(new Set(answers.map(({ body }) => body)), new Set(["before 0"]));
  const dials = rig.host.dialled.get(door(main)) ?? 0;
  assert.ok(dials <= most, `${dials} of 100 requests went to the release that refuses`);
  rig.host.ports.set(door(main), rig.host.ports.get(door(again))!);
  await waitFor(
    "the release that is back",
    async () => (await rig.fetch("resting.clinic.test")).body === "again 0",
    10_000,
  );
  for (const { body } of await answersOf("resting.clinic.test", 5)) assert.equal(body, "again 0");
});

test("a held request is answered as soon as the route leads somewhere", async () => {
  const main = await saying("main");
  await rig.publish({ "held.clinic.test": { type: "hold" } });
  const answer = rig.fetch("held.clinic.test", "/", {
    method: "POST",
    body: "four",
    headers: { "content-length": "4" },
  });
  // It is on its way; whether it came before or after the route moved, it has to be answered.
  await rig.publish({ "held.clinic.test": main.target });
  assert.equal((await answer).body, "main 4");
});

async function socketsApp(name: string): Promise<App> {
  const app = await rig.app((_req, res) => res.end(name));
  new WebSocketServer({ server: app.server }).on("connection", (socket) =>
    socket.on("message", (data) => socket.send(`${name}:${String(data)}`)),
  );
  return app;
}

test("a WebSocket that was left behind is closed with 1001 after its time, one that was not stays", async () => {
  const [old, young] = [await socketsApp("old"), await socketsApp("young")];
  await rig.publish({
    "away.clinic.test": target(old, { webSocketCloseMs: 50 }),
    "kept.clinic.test": young.target,
  });
  const open = async (host: string) => {
    const socket = new WebSocket(`ws://127.0.0.1:${rig.edge.port}/`, { headers: { host } });
    await once(socket, "open");
    return socket;
  };
  const [left, stays] = [await open("away.clinic.test"), await open("kept.clinic.test")];
  const closed = once(left, "close");
  await rig.publish({ "away.clinic.test": young.target, "kept.clinic.test": null });
  assert.equal((await closed)[0], 1001);
  stays.send("still");
  assert.equal(String((await once(stays, "message"))[0]), "young:still");
  stays.terminate();
});

test("frames are told apart wherever their bytes are cut", () => {
  const frames = [
    Buffer.from([0x81, 0x02, 0x68, 0x69]),
    Buffer.concat([Buffer.from([0x82, 126, 0x01, 0x00]), Buffer.alloc(256, 1)]),
    Buffer.concat([Buffer.from([0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]), Buffer.alloc(65_536, 2)]),
    Buffer.concat([Buffer.from([0x81, 0x83, 9, 9, 9, 9]), Buffer.alloc(3)]),
    Buffer.from([0x89, 0x00]),
  ];
  const all = Buffer.concat(frames);
  for (const size of [1, 2, 3, 7, 1000, all.length]) {
    const borders = new FrameBorders();
    let seen = 0;
    for (let at = 0; at < all.length; at += size) {
      const end = borders.pass(all.subarray(at, at + size));
      if (size === 1 && end !== null) seen++;
    }
    assert.ok(borders.isAtBorder);
    if (size === 1) assert.equal(seen, frames.length);
  }
  const cut = new FrameBorders();
  assert.equal(cut.pass(all.subarray(0, 6)), 4);
  assert.ok(!cut.isAtBorder);
});
