import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { Agent, createServer as createHttpServer, request, type IncomingMessage } from "node:http";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Duplex } from "node:stream";
import { test, type TestContext } from "node:test";
import { encodeFrame, frameTypes } from "./frames.ts";
import { GuestRefusal, Session } from "./session.ts";

const source = resolve(import.meta.dirname, "../../../../guest/microvm");
const skip =
  spawnSync("gcc", ["--version"]).status === 0 ? false : "there is no C compiler: apt-get install gcc";
const mib = 1024 * 1024;

interface Bridge {
  readonly folder: string;
  readonly dial: () => Promise<Socket>;
  readonly open: (onOutbound?: (stream: Duplex) => void) => Promise<Session>;
}

/** The guest's own program as a process of this machine, with an agent behind it that `serve` plays. */
async function startBridge(t: TestContext, serve: (socket: Socket) => void): Promise<Bridge> {
  const folder = await mkdtemp(join(tmpdir(), "bridge-"));
  const at = (name: string) => join(folder, name);
  const files = ["frames.c", "bridge.c", "testing/bridge-main.c"].map((name) => join(source, name));
  execFileSync("gcc", [
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-o",
    at("bridge"),
    ...files,
  ]);
  const agent = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => socket.destroy());
    serve(socket);
  });
  await once(agent.listen(at("guest.sock")), "listening");
  const child = spawn(at("bridge"), [at("port.sock"), at("guest.sock"), at("outbound.sock")], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  const sockets: Socket[] = [];
  const dial = async () => {
    const socket = connect({ path: at("port.sock"), allowHalfOpen: true });
    await once(socket, "connect");
    sockets.push(socket);
    return socket;
  };
  t.after(async () => {
    for (const socket of sockets) socket.destroy();
    agent.close();
    if (child.exitCode === null) {
      child.kill("SIGKILL");
      await once(child, "exit");
    }
    await rm(folder, { recursive: true, force: true });
  });
  const open = async (onOutbound: (stream: Duplex) => void = (stream) => stream.destroy()) => {
    const session = new Session(await dial(), { onOutbound, onClose: () => undefined });
    await session.greeted(AbortSignal.timeout(10_000));
    return session;
  };
  return { folder, dial, open };
}

const echo = (socket: Socket) => void socket.pipe(socket);

async function collect(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const digest = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");

test("many connections share one stream, each whole, however much is sent at once", { skip }, async (t) => {
  const { open } = await startBridge(t, echo);
  const session = await open();
  await Promise.all(
    Array.from({ length: 40 }, async (_, index) => {
      const sent = randomBytes(index === 0 ? 8 * mib : 40_000 + index);
      const stream = session.open();
      stream.end(sent);
      assert.equal(digest(await collect(stream)), digest(sent));
    }),
  );
});

test("a reader that stops holds back its own connection only", { skip }, async (t) => {
  const { open } = await startBridge(t, (socket) => {
    socket.once("data", (first) => {
      if (String(first) === "flood") socket.write(Buffer.alloc(4 * mib));
      else socket.end(first);
    });
  });
  const session = await open();
  const stuck = session.open();
  stuck.write("flood");
  await once(stuck, "readable");
  for (let times = 0; times < 5; times++) {
    const stream = session.open();
    stream.end("hello");
    assert.equal(String(await collect(stream)), "hello");
  }
  let length = 0;
  for await (const chunk of stuck) {
    length += (chunk as Buffer).length;
    if (length === 4 * mib) break;
  }
  assert.equal(length, 4 * mib);
});

test("Node's HTTP client keeps connections over it alive", { skip }, async (t) => {
  let connections = 0;
  const server = createHttpServer((incoming, response) => void incoming.pipe(response));
  const { open } = await startBridge(t, (socket) => {
    connections += 1;
    server.emit("connection", socket);
  });
  const session = await open();
  const agent = new Agent({ keepAlive: true });
  agent.createConnection = () => session.open();
  const ask = async (body: string) => {
    const call = request({ method: "POST", agent, host: "box", path: "/" });
    call.end(body);
    const [response] = (await once(call, "response")) as [IncomingMessage];
    return String(await collect(response));
  };
  for (const body of ["one", "two", "three"]) assert.equal(await ask(body), body);
  assert.equal(connections, 1);
  agent.destroy();
});

test(
  "programs of the box dial out, and a connection that the host refuses ends there",
  { skip },
  async (t) => {
    const { folder, open } = await startBridge(t, echo);
    let mustRefuse = false;
    await open((stream) => {
      if (mustRefuse) stream.destroy();
      else stream.pipe(stream);
    });
    const program = connect(join(folder, "outbound.sock"));
    program.end("out");
    assert.equal(String(await collect(program)), "out");
    mustRefuse = true;
    const refused = connect(join(folder, "outbound.sock"));
    refused.on("error", () => undefined);
    await once(refused, "close");
  },
);

test("calls are answered in the guest's words", { skip }, async (t) => {
  const { open } = await startBridge(t, echo);
  const session = await open();
  const none = Buffer.alloc(0);
  assert.equal(await session.call("stats", none, AbortSignal.timeout(10_000)), "figures");
  await assert.rejects(session.call("freeze", none, AbortSignal.timeout(10_000)), (error) => {
    return error instanceof GuestRefusal && error.message === "cannot";
  });
  await assert.rejects(session.call("thaw", none, AbortSignal.timeout(50)), { name: "TimeoutError" });
});

test("a new session ends the one before it, whatever that one left half-sent", { skip }, async (t) => {
  const { dial, open } = await startBridge(t, echo);
  const first = await open();
  const lost = first.open();
  lost.on("error", () => undefined);
  lost.write("half");
  // A daemon that dies in the middle of a frame, and rubbish after it.
  const dying = await dial();
  dying.write(encodeFrame(frameTypes.data, 1, Buffer.alloc(9_000)).subarray(0, 500));
  dying.write(randomBytes(2_000));
  const second = await open();
  const stream = second.open();
  stream.end("again");
  assert.equal(String(await collect(stream)), "again");
  assert.ok(lost.destroyed);
});

test("when the agent is gone, a connection to it fails and the session goes on", { skip }, async (t) => {
  const { folder, open } = await startBridge(t, (socket) => void socket.destroy());
  const session = await open();
  const stream = session.open();
  stream.on("error", () => undefined);
  assert.equal((await collect(stream)).length, 0);
  stream.end("too late");
  await once(stream, "close");
  await rm(join(folder, "guest.sock"));
  const next = session.open();
  const failed = once(next, "error");
  next.resume();
  assert.match(String((await failed)[0]), /closed the connection/);
  assert.ok(session.isOpen);
});

test("a greeting that the guest lost is said again, and an answer to each is one session", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "greeting-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  let heard = 0;
  const guest = createServer((socket) => {
    let held = Buffer.alloc(0);
    socket.on("error", () => socket.destroy());
    socket.on("data", (chunk: Buffer) => {
      held = Buffer.concat([held, chunk]);
      // The frame begins with its magic number; padding has none.
      for (let at = held.indexOf("c5b001", 0, "hex"); at >= 0 && held.length >= at + 32;) {
        const hello = held.subarray(at, at + 32);
        held = held.subarray(at + 32);
        heard++;
        // The first is forgotten, the second answered twice.
        if (heard === 2) socket.write(Buffer.concat([hello, hello]));
        at = held.indexOf("c5b001", 0, "hex");
      }
    });
  });
  await once(guest.listen(join(folder, "port.sock")), "listening");
  t.after(() => guest.close());
  const port = connect({ path: join(folder, "port.sock"), allowHalfOpen: true });
  await once(port, "connect");
  const session = new Session(port, { onOutbound: () => undefined, onClose: () => undefined }, 50);
  t.after(() => session.close());
  await session.greeted(AbortSignal.timeout(60_000));
  assert.equal(heard, 2);
  assert.equal(session.isOpen, true);
});
