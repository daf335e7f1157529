import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { waitFor } from "@platform/daemon";
import { WebSocket, WebSocketServer } from "ws";
import { Rig, type App } from "../testing/rig.ts";

let rig: Rig;
before(async () => {
  rig = await Rig.start();
});
after(() => rig.stop());

async function echoApp(name: string): Promise<App> {
  const app = await rig.app((_req, res) => res.end(name));
  const server = new WebSocketServer({ server: app.server });
  server.on("connection", (socket, req) => {
    socket.on("message", (data, isBinary) => socket.send(isBinary ? data : `${name}:${String(data)}`));
    socket.send(JSON.stringify(req.headers));
  });
  return app;
}

const openSocket = async (host: string) => {
  const socket = new WebSocket(`ws://127.0.0.1:${rig.edge.port}/socket?a=1`, ["chat"], { headers: { host } });
  const [first] = (await once(socket, "message")) as [Buffer];
  return { socket, headers: JSON.parse(String(first)) as Record<string, string> };
};

const ask = async (socket: WebSocket, text: string) => {
  socket.send(text);
  const [answer] = (await once(socket, "message")) as [Buffer];
  return String(answer);
};

test("a WebSocket lives on when its route moves and goes, and new ones follow the route", async () => {
  const [a, b] = [await echoApp("a"), await echoApp("b")];
  await rig.publish({ "ws.clinic.test": a.target });
  const old = await openSocket("ws.clinic.test");
  assert.equal(old.headers["host"], "ws.clinic.test");
  assert.equal(old.headers["x-forwarded-for"], "127.0.0.1");
  assert.equal(old.headers["upgrade"], "websocket");
  assert.equal(await ask(old.socket, "1"), "a:1");
  await rig.publish({ "ws.clinic.test": b.target });
  const young = await openSocket("ws.clinic.test");
  assert.equal(await ask(young.socket, "2"), "b:2");
  await rig.publish({ "ws.clinic.test": null });
  assert.equal(await ask(old.socket, "3"), "a:3");
  const large = Buffer.alloc(3_000_000, 7);
  young.socket.send(large);
  const [echoed] = (await once(young.socket, "message")) as [Buffer];
  assert.equal(
    createHash("sha256").update(echoed).digest("hex"),
    createHash("sha256").update(large).digest("hex"),
  );
  const closed = once(old.socket, "close");
  old.socket.close(4001, "bye");
  assert.equal((await closed)[0], 4001);
  young.socket.terminate();
  await waitFor(
    "no tunnel",
    async () => {
      const health = JSON.parse((await rig.fetch("edge.internal", "/healthz")).body) as { tunnels: number };
      return health.tunnels === 0;
    },
    5_000,
  );
});

test("an upgrade that the app or nobody answers is an ordinary answer", async () => {
  const app = await rig.app((_req, res) => res.writeHead(200).end());
  app.server.on("upgrade", (_req, socket) => {
    socket.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nx-why: no\r\n\r\nno");
  });
  await rig.publish({ "no.clinic.test": app.target });
  const handshake = (host: string) =>
    `GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
    `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`;
  const refused = await rig.raw(handshake("no.clinic.test"));
  assert.match(refused, /^HTTP\/1.1 403 Forbidden\r\n/);
  assert.match(refused, /x-why: no\r\n[^]*\r\n\r\nno$/);
  const unknown = await rig.raw(handshake("unknown.test"));
  assert.match(unknown, /^HTTP\/1.1 404 /);
  await app.stop();
  assert.match(await rig.raw(handshake("no.clinic.test")), /^HTTP\/1.1 502 /);
});

test("either side may finish first and still hear the other out", async () => {
  const app = await rig.app((_req, res) => res.end());
  const heard: string[] = [];
  app.server.on("upgrade", (req, raw) => {
    const socket = raw as Socket;
    socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: line\r\n\r\n");
    socket.on("data", (part: Buffer) => heard.push(part.toString("utf8")));
    if (req.url === "/app-first") socket.end("app is done");
    else socket.on("end", () => socket.end(`heard ${heard.join("")}`));
  });
  await rig.publish({ "half.clinic.test": app.target });
  const dial = (path: string) => {
    const socket = connect({ port: rig.edge.port, host: "127.0.0.1", allowHalfOpen: true });
    let text = "";
    socket.setEncoding("utf8").on("data", (part: string) => (text += part));
    socket.write(
      `GET ${path} HTTP/1.1\r\nHost: half.clinic.test\r\nConnection: Upgrade\r\nUpgrade: line\r\n\r\nearly `,
    );
    return { socket, text: () => text };
  };
  const first = dial("/client-first");
  await waitFor("handshake", () => first.text().includes("101"), 5_000);
  first.socket.end("question");
  await once(first.socket, "end");
  assert.match(first.text(), /heard early question$/);

  heard.length = 0;
  const second = dial("/app-first");
  await once(second.socket, "end");
  assert.match(second.text(), /app is done$/);
  second.socket.end("late words");
  await waitFor("late words", () => heard.join("") === "early late words", 5_000);
});
