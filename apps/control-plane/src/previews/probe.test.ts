import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage } from "node:http";
import { connect, type AddressInfo, type Socket } from "node:net";
import { test, type TestContext } from "node:test";
import { answersNoUpgrade, probeThroughEdge } from "./probe.ts";

type OnUpgrade = (request: IncomingMessage, socket: Socket) => void;

/** A server that answers requests, and upgrades as told. @returns its port */
async function startServer(t: TestContext, onUpgrade: OnUpgrade): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer((_request, response) => response.end("app"));
  server.on("connection", (socket) => sockets.add(socket));
  server.on("upgrade", (request, socket) => onUpgrade(request, socket as Socket));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

const ignore: OnUpgrade = (_request, socket) => socket.resume();
const close: OnUpgrade = (_request, socket) => socket.destroy();
const refuse: OnUpgrade = (_request, socket) =>
  socket.end("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
/** As the dev servers of some bundlers do: whoever does not speak their protocol gets no answer. */
const onlyOwnProtocol: OnUpgrade = (request, socket) => {
  if (request.headers["sec-websocket-protocol"] !== "vite-ping") return ignore(request, socket);
  const key = `${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`;
  const accept = createHash("sha1").update(key).digest("base64");
  const head = `upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-protocol: vite-ping\r\nsec-websocket-accept: ${accept}`;
  socket.write(`HTTP/1.1 101 Switching Protocols\r\n${head}\r\n\r\n`);
};

const look = async (t: TestContext, onUpgrade: OnUpgrade, isSilent = async () => false) => {
  const edge = { url: `http://127.0.0.1:${await startServer(t, onUpgrade)}`, publicPort: null };
  return (await probeThroughEdge(edge, "app.localhost", "/?token=1", 10_000, undefined, isSilent)).websocket;
};

test("a dev server that answers its own protocol's upgrades alone is proved by that", async (t) => {
  const seen = await look(t, onlyOwnProtocol);
  assert.deepEqual([seen.ok, seen.answered], [true, "switched"]);
});

test("a dev server that answers upgrades at its own path alone is proved by that, with the token that opens the preview", async (t) => {
  const paths: string[] = [];
  const seen = await look(t, (request, socket) => {
    paths.push(request.url!);
    if (request.url!.startsWith("/_next/webpack-hmr")) refuse(request, socket);
    else close(request, socket);
  });
  assert.deepEqual([seen.ok, seen.answered], [true, "404"]);
  assert.equal(paths.at(-1), "/_next/webpack-hmr?token=1");
});

test("an app's refusal of an upgrade shows that it arrived", async (t) => {
  const seen = await look(t, refuse);
  assert.deepEqual([seen.ok, seen.answered], [true, "404"]);
});

test("an upgrade without an answer passes only if the server has none also when asked inside", async (t) => {
  assert.equal((await look(t, ignore)).ok, false);
  assert.equal((await look(t, close)).ok, false);
  const seen = await look(t, ignore, async () => true);
  assert.deepEqual([seen.ok, seen.answered], [true, "ignored, also when asked inside"]);
});

test("inside, a server that has no answer for an upgrade is told from one that refuses it or is not there", async (t) => {
  const asked = async (onUpgrade: OnUpgrade) => {
    const port = await startServer(t, onUpgrade);
    return answersNoUpgrade(async () => connect(port, "127.0.0.1"), "app.localhost", "/");
  };
  assert.equal(await asked(ignore), true);
  assert.equal(await asked(close), true);
  assert.equal(await asked(refuse), false);
  const gone = async (): Promise<Socket> => {
    throw new Error("nobody listens");
  };
  assert.equal(await answersNoUpgrade(gone, "app.localhost", "/"), false);
});
