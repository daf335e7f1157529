import assert from "node:assert/strict";
import { createServer as createHttpServer, request } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { connect, createServer, type Server, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import type { GuestService } from "@platform/guest-protocol";
import { WebSocket, WebSocketServer } from "ws";
import { freePort, serverCommand, startAgent } from "../test-agent.ts";
import { isLoopback, parseTable } from "./ports.ts";

const service = (command: string): GuestService => ({
  name: "web",
  command,
  cwd: "/",
  env: {},
  restart: "never",
});

async function listenOn(t: TestContext, server: Server, target: string | [number, string]): Promise<void> {
  await new Promise<void>((resolve) => {
    if (typeof target === "string") server.listen(target, resolve);
    else server.listen(...target, resolve);
  });
  t.after(() => server.close());
}

/** CONNECT over the agent's socket: a raw stream, or the refusal. */
function tunnel(socketPath: string, target: string) {
  return new Promise<{ socket: Socket } | { status: number; code: string }>((resolve, reject) => {
    const sent = request({ socketPath, method: "CONNECT", path: target, agent: false });
    sent.once("connect", (response, socket, head) => {
      if (response.statusCode === 200) {
        resolve({ socket: socket as Socket });
        return;
      }
      socket.unshift(head);
      text(socket).then((body) => {
        const { error } = JSON.parse(body) as { error: { code: string } };
        resolve({ status: response.statusCode ?? 0, code: error.code });
      }, reject);
    });
    sent.once("error", reject);
    sent.end();
  });
}

for (const address of ["0.0.0.0", "::"]) {
  test(`a server on ${address} is reachable and listed with its process`, async (t) => {
    const { client } = await startAgent(t);
    const port = await freePort();
    const { pid } = await client.services.put(service(serverCommand(port, address)));
    const result = await client.probe(port, { service: "web", timeoutMs: 10_000 });
    assert.deepEqual([result.ok, result.reason, result.httpStatus], [true, null, 200]);
    const entry = (await client.ports()).find((found) => found.port === port);
    assert.deepEqual([entry?.address, entry?.loopbackOnly, entry?.pid], [address, false, pid]);
  });
}

test("a server on the loopback address alone is told apart", async (t) => {
  const { client, socketPath } = await startAgent(t);
  const port = await freePort();
  await client.services.put(service(serverCommand(port, "127.0.0.1")));
  const result = await client.probe(port, { service: "web", timeoutMs: 10_000 });
  assert.deepEqual([result.ok, result.reason], [false, "bound_to_loopback"]);
  assert.equal((await client.ports()).find((found) => found.port === port)?.loopbackOnly, true);
  assert.deepEqual(await tunnel(socketPath, `box:${port}`), { status: 502, code: "BOUND_TO_LOOPBACK" });
  const inside = await tunnel(socketPath, `inside:${port}`);
  assert.ok("socket" in inside, "a caller that asks for what is inside gets it");
  inside.socket.destroy();
  const nothing = await tunnel(socketPath, `inside:${await freePort()}`);
  assert.deepEqual(nothing, { status: 502, code: "PORT_REFUSED" });
});

test("a server that comes late is waited for", async (t) => {
  const { client } = await startAgent(t);
  const port = await freePort();
  const answer = client.probe(port, { timeoutMs: 15_000 });
  await client.services.put(service(`sleep 0.3; ${serverCommand(port, "0.0.0.0", 401)}`));
  const result = await answer;
  assert.deepEqual([result.ok, result.httpStatus], [true, 401]);
  assert.ok(result.waitedMs > 0);
});

test("a program that listens and then exits is reported with its last lines", async (t) => {
  const { client } = await startAgent(t);
  const port = await freePort();
  const script = `const s=require("net").createServer(()=>{console.error("boom");process.exit(9)}).listen(${port},"0.0.0.0")`;
  await client.services.put(service(`exec ${process.execPath} -e '${script}'`));
  const result = await client.probe(port, { service: "web", timeoutMs: 10_000 });
  assert.equal(result.reason, "process_exited");
  assert.equal(result.evidence["exitCode"], 9);
  assert.match(JSON.stringify(result.evidence["logs"]), /boom/);
});

test("nothing, silence and failure have reasons of their own", async (t) => {
  const { client } = await startAgent(t);
  const never = await client.probe(await freePort(), { timeoutMs: 60 });
  assert.deepEqual([never.ok, never.reason], [false, "not_listening"]);
  const silentPort = await freePort();
  await listenOn(
    t,
    createServer((socket) => t.after(() => socket.destroy())),
    [silentPort, "0.0.0.0"],
  );
  const silent = await client.probe(silentPort, { timeoutMs: 150 });
  assert.equal(silent.reason, "no_http_answer");
  for (const status of [403, 500]) {
    const port = await freePort();
    const server = createHttpServer((_, response) => response.writeHead(status).end());
    await listenOn(t, server, [port, "0.0.0.0"]);
    const failed = await client.probe(port, { timeoutMs: 5000 });
    assert.deepEqual([failed.ok, failed.reason, failed.httpStatus], [false, "http_error", status]);
  }
});

test("a WebSocket works through a tunnel", async (t) => {
  const { socketPath } = await startAgent(t);
  const port = await freePort();
  const http = createHttpServer();
  const sockets = new WebSocketServer({ server: http });
  sockets.on("connection", (socket) => socket.on("message", (data) => socket.send(`echo ${String(data)}`)));
  await listenOn(t, http, [port, "0.0.0.0"]);
  const opened = await tunnel(socketPath, `anything:${port}`);
  assert.ok("socket" in opened);
  const client = new WebSocket("ws://app/", { createConnection: () => opened.socket });
  t.after(() => client.terminate());
  const answer = await new Promise((resolve, reject) => {
    client.on("open", () => client.send("hello")).on("error", reject);
    client.on("message", (data) => resolve(String(data)));
  });
  assert.equal(answer, "echo hello");
});

test("a tunnel passes each direction's end on by itself", async (t) => {
  const { socketPath } = await startAgent(t);
  const port = await freePort();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    void text(socket).then((all) => socket.end(`${all.length} bytes`));
  });
  await listenOn(t, server, [port, "0.0.0.0"]);
  const opened = await tunnel(socketPath, `box:${port}`);
  assert.ok("socket" in opened);
  opened.socket.end("x".repeat(500_000));
  assert.equal(await text(opened.socket), "500000 bytes");
  const refused = await tunnel(socketPath, `box:${await freePort()}`);
  assert.deepEqual(refused, { status: 502, code: "PORT_REFUSED" });
  assert.deepEqual(await tunnel(socketPath, "box:0"), { status: 400, code: "INVALID" });
});

test("HTTP/2 and HTTP/1.1 share the socket, and both open tunnels", async (t) => {
  const { client, socketPath } = await startAgent(t);
  const port = await freePort();
  await listenOn(
    t,
    createServer((socket) => socket.pipe(socket)),
    [port, "0.0.0.0"],
  );
  const session = connectHttp2("http://box", { createConnection: () => connect(socketPath) });
  t.after(() => session.destroy());
  const ready = session.request({ ":path": "/ready" });
  assert.equal((JSON.parse(await text(ready)) as { ok: boolean }).ok, true);
  const stream = session.request({ ":method": "CONNECT", ":authority": `box:${port}` });
  stream.end("through");
  assert.equal(await text(stream), "through");
  const refused = session.request({ ":method": "CONNECT", ":authority": `box:${await freePort()}` });
  assert.match(await text(refused), /PORT_REFUSED/);
  assert.equal((await client.ready()).ok, true);
});

test("links and the proxy port lead to the host's proxy, and are changed while the agent runs", async (t) => {
  const agent = await startAgent(t);
  const targets: string[] = [];
  const proxy = createHttpServer((_, response) => response.end("proxied"));
  proxy.on("connect", (incoming, socket) => {
    targets.push(incoming.url ?? "");
    if (incoming.url?.startsWith("forbidden")) {
      socket.end("HTTP/1.1 403 Forbidden\r\n\r\n");
      return;
    }
    socket.write("HTTP/1.1 200 OK\r\n\r\nhello ");
    socket.pipe(socket);
  });
  await listenOn(t, proxy, agent.outboundPath);
  const [linkPort, forbiddenPort, proxyPort] = [await freePort(), await freePort(), await freePort()];
  const links = [
    { host: "db.internal", port: linkPort },
    { host: "forbidden.internal", port: forbiddenPort },
  ];
  const applied = await agent.client.configure({ links, proxyPort, env: { NEW: "1" } });
  assert.ok(applied.listeners.every((listener) => listener.error === null));

  const link = connect({ port: linkPort, host: "127.0.0.1" });
  link.end("world");
  assert.equal(await text(link), "hello world");
  assert.deepEqual(targets, [`db.internal:${linkPort}`]);
  await assert.rejects(text(connect({ port: forbiddenPort, host: "127.0.0.1" })), { code: "ECONNRESET" });

  const answer = await new Promise<string>((resolve, reject) => {
    const sent = request({ port: proxyPort, path: "http://example.com/" }, (response) => {
      text(response).then(resolve, reject);
    });
    sent.on("error", reject).end();
  });
  assert.equal(answer, "proxied");
  const env = await agent.client.exec("echo $NEW $HTTPS_PROXY $NODE_USE_ENV_PROXY");
  assert.equal(env.stdout, `1 http://127.0.0.1:${proxyPort} 1\n`);
  assert.ok((await agent.client.ports()).every((entry) => entry.port !== linkPort));

  await agent.client.configure({ links: [], proxyPort: null });
  await waitFor(
    "the link's port to close",
    () =>
      new Promise<boolean>((resolve) => {
        const again = connect({ port: linkPort, host: "127.0.0.1" });
        again.once("error", () => resolve(true));
        again.once("connect", () => {
          again.destroy();
          resolve(false);
        });
      }),
    5000,
  );
});

test("the kernel's table of sockets is understood", () => {
  const line = (local: string) =>
    `  0: ${local} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1`;
  const addresses = (family: "ipv4" | "ipv6", local: string) =>
    parseTable(`header\n${line(local)}\n`, family).map((entry) => [entry.address, entry.port, entry.inode]);
  assert.deepEqual(addresses("ipv4", "0100007F:1F90"), [["127.0.0.1", 8080, "77"]]);
  assert.deepEqual(addresses("ipv6", "00000000000000000000000001000000:0050"), [["::1", 80, "77"]]);
  assert.deepEqual(addresses("ipv6", "0000000000000000FFFF00000100007F:0050"), [
    ["::ffff:127.0.0.1", 80, "77"],
  ]);
  assert.deepEqual(["127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"].map(isLoopback), [
    true,
    true,
    true,
    false,
    false,
  ]);
});
