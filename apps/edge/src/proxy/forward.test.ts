import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { Agent, request, type IncomingMessage } from "node:http";
import { createServer, type AddressInfo, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { waitFor } from "@platform/daemon";
import { boxes, Rig } from "../testing/rig.ts";

let rig: Rig;
before(async () => {
  rig = await Rig.start();
});
after(() => rig.stop());

const open = (host: string, path: string, options: { method?: string; agent?: Agent } = {}) => {
  const req = request({ port: rig.edge.port, host: "127.0.0.1", path, headers: { host }, ...options });
  const response = new Promise<IncomingMessage>((resolve, reject) => {
    req.on("response", resolve);
    req.on("error", reject);
  });
  return { req, response };
};

/** A box whose port is played by a bare socket server, for what no HTTP server would do. */
async function rawApp(box: string, onSocket: (socket: Socket) => void) {
  const server = createServer(onSocket);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  rig.host.ports.set(`${box}:80`, (server.address() as AddressInfo).port);
  const upstream = { hostUrl: rig.host.url, boxKey: box, port: 80 };
  return { upstream, stop: () => new Promise((resolve) => server.close(resolve)) };
}

test("a route moves under load without one failed request, and the old app may then go", async () => {
  const slow = (name: string) => (req: IncomingMessage, res: import("node:http").ServerResponse) => {
    req.resume().on("end", () => setTimeout(() => res.end(name), 2));
  };
  const [a, b] = [await rig.app(slow("a")), await rig.app(slow("b"))];
  await rig.publish({ "switch.clinic.test": a.target });
  const agent = new Agent({ keepAlive: true, maxSockets: 16 });
  const seen = { a: 0, b: 0 };
  let wantMore = true;
  const client = async (method: string) => {
    while (wantMore || seen.b < 1_000) {
      const { req, response } = open("switch.clinic.test", "/x", { method, agent });
      req.end(method === "POST" ? "body" : undefined);
      const res = await response;
      let body = "";
      for await (const chunk of res.setEncoding("utf8")) body += String(chunk);
      assert.equal(res.statusCode, 200, body);
      seen[body as "a" | "b"]++;
    }
  };
  const clients = Array.from({ length: 16 }, (_, i) => client(i % 2 ? "POST" : "GET"));
  const traffic = Promise.all(clients);
  try {
    await Promise.race([waitFor("load on a", () => seen.a > 1_000, 30_000), traffic]);
    for (let i = 0; i < 5; i++) {
      await rig.publish({ "switch.clinic.test": i % 2 ? a.target : b.target });
    }
    const atSwitch = seen.b;
    await waitFor("load on b", () => seen.b > atSwitch + 300, 30_000);
    // Drained: nobody is served by it any more.
    const before = seen.a;
    await a.stop();
    await waitFor("more load on b", () => seen.b > atSwitch + 600, 30_000);
    assert.equal(seen.a, before);
  } finally {
    wantMore = false;
    await traffic;
    agent.destroy();
  }
  assert.ok(seen.a + seen.b > 2_000);
});

test("requests go round over the upstreams, and past one that refuses, whatever the method", async () => {
  const [a, b, gone] = [
    await rig.app((_q, s) => s.end("a")),
    await rig.app((_q, s) => s.end("b")),
    await rig.app((_q, s) => s.end("gone")),
  ];
  await gone.stop();
  await rig.publish({ "many.clinic.test": boxes(a.upstream, gone.upstream, b.upstream) });
  const bodies: string[] = [];
  for (let i = 0; i < 9; i++) {
    const answer = await rig.fetch("many.clinic.test", "/", { method: "POST", body: "x".repeat(100_000) });
    assert.equal(answer.status, 200);
    bodies.push(answer.body);
  }
  assert.deepEqual(new Set(bodies), new Set(["a", "b"]));
});

test("a kept connection that the app closes on the next request costs no GET, and no POST, which is not repeated", async () => {
  const received: string[] = [];
  const app = await rawApp("stale-app", (socket) => {
    let count = 0;
    socket.on("error", () => socket.destroy());
    socket.on("data", (data) => {
      received.push(data.toString("latin1").split(" ")[0]!);
      if (++count > 1) socket.destroy();
      else socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
  });
  await rig.publish({ "stale.clinic.test": boxes(app.upstream) });
  try {
    assert.equal((await rig.fetch("stale.clinic.test")).status, 200);
    assert.equal((await rig.fetch("stale.clinic.test")).status, 200);
    assert.equal((await rig.fetch("stale.clinic.test")).status, 200);
    received.length = 0;
    const post = await rig.fetch("stale.clinic.test", "/", { method: "POST", body: "{}" });
    assert.equal(post.status, 200, "it has a connection of its own");
    assert.equal(received.filter((method) => method === "POST").length, 1);
  } finally {
    await rig.publish({ "stale.clinic.test": null });
    await app.stop();
  }
});

test("every event of a stream arrives before the next one is sent, and so does its head", async () => {
  let push: (text: string) => void = () => undefined;
  const app = await rig.app((_req, res) => {
    res.writeHead(200, { "content-type": "text/event-stream" });
    res.flushHeaders();
    push = (text) => (text === "end" ? res.end() : res.write(`data: ${text}\n\n`));
  });
  await rig.publish({ "events.clinic.test": app.target });
  const { req, response } = open("events.clinic.test", "/events");
  req.end();
  const res = await response;
  const chunks = res.setEncoding("utf8")[Symbol.asyncIterator]();
  for (const text of ["one", "two", "three"]) {
    push(text);
    assert.equal((await chunks.next()).value, `data: ${text}\n\n`);
  }
  push("end");
  assert.equal((await chunks.next()).done, true);
});

test("200 MB pass each way, unchanged, in bounded memory", async (t) => {
  const block = randomBytes(1024 * 1024);
  const blocks = 200;
  const expected = createHash("sha256");
  for (let i = 0; i < blocks; i++) expected.update(block);
  const digest = expected.digest("hex");
  const app = await rig.app((req, res) => {
    const hash = createHash("sha256");
    req.on("data", (chunk: Buffer) => hash.update(chunk));
    req.on("end", () => {
      res.setHeader("x-received", hash.digest("hex"));
      let left = blocks;
      const more = () => {
        while (left > 0) {
          left--;
          if (!res.write(block)) return void res.once("drain", more);
        }
        res.end();
      };
      more();
    });
  });
  await rig.publish({ "large.clinic.test": app.target });
  const { req, response } = open("large.clinic.test", "/", { method: "POST" });
  for (let i = 0; i < blocks; i++) {
    if (!req.write(block)) await new Promise((resolve) => req.once("drain", resolve));
  }
  req.end();
  const res = await response;
  assert.equal(res.headers["x-received"], digest);
  const hash = createHash("sha256");
  for await (const chunk of res) hash.update(chunk as Buffer);
  assert.equal(hash.digest("hex"), digest);
  const { readFile } = await import("node:fs/promises");
  const status = await readFile(`/proc/${rig.edge.child.pid}/status`, "utf8").catch(() => null);
  if (!status) return t.diagnostic("no /proc: the peak of memory was not measured");
  const peakMib = Number(/VmHWM:\s+(\d+)/.exec(status)?.[1]) / 1024;
  assert.ok(peakMib < 400, `peak of ${peakMib} MiB`);
});

test("an app that reads nothing stops its client; once it reads, everything arrives", async () => {
  let read: (() => void) | undefined;
  const app = await rig.app((req, res) => {
    read = () => {
      let bytes = 0;
      req.on("data", (chunk: Buffer) => (bytes += chunk.length));
      req.on("end", () => res.end(String(bytes)));
    };
  });
  await rig.publish({ "slow.clinic.test": app.target });
  const { req, response } = open("slow.clinic.test", "/", { method: "PUT" });
  const block = Buffer.alloc(1024 * 1024);
  const blocks = 64;
  let written = 0;
  const pump = () => {
    while (written < blocks) {
      written++;
      if (!req.write(block)) return;
    }
    req.end();
  };
  req.on("drain", pump);
  pump();
  let last = -1;
  let unchanged = 0;
  await waitFor(
    "the buffers of the way to be full",
    () => {
      unchanged = read && written === last ? unchanged + 1 : 0;
      last = written;
      return unchanged > 8;
    },
    10_000,
  );
  assert.ok(written < blocks, `${written} MiB were taken that nobody read`);
  read?.();
  const res = await response;
  let body = "";
  for await (const chunk of res.setEncoding("utf8")) body += String(chunk);
  assert.equal(body, String(blocks * block.length));
});

test("when the client goes away the app's request ends", async () => {
  let aborted = false;
  let arrived = false;
  const app = await rig.app((req, res) => {
    arrived = true;
    req.on("close", () => (aborted = true));
    res.write("begun");
  });
  await rig.publish({ "abort.clinic.test": app.target });
  const { req, response } = open("abort.clinic.test", "/");
  req.on("error", () => undefined);
  req.end();
  await response;
  assert.ok(arrived);
  req.destroy();
  await waitFor("the app to see the abort", () => aborted, 5_000);
});

test("a response that breaks off breaks the client's connection, however it is framed", async () => {
  const heads = [
    "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n",
    "HTTP/1.1 200 OK\r\n\r\npart",
  ];
  for (const [i, head] of heads.entries()) {
    let socket: Socket | undefined;
    const app = await rawApp(`cut-app-${i}`, (opened) => {
      socket = opened;
      opened.on("error", () => opened.destroy());
      opened.once("data", () => opened.write(head));
    });
    const host = `cut-${i}.clinic.test`;
    await rig.publish({ [host]: boxes(app.upstream) });
    const { req, response } = open(host, "/");
    req.end();
    const res = await response;
    res.once("data", () => socket?.resetAndDestroy());
    await assert.rejects(async () => {
      for await (const chunk of res) void chunk;
    }, `framing ${i}`);
    await app.stop();
  }
});

test("an answer before the whole body was read reaches the client", async () => {
  const app = await rig.app((_req, res) => {
    res.writeHead(413, { connection: "close" }).end("too large");
  });
  await rig.publish({ "early.clinic.test": app.target });
  const { req, response } = open("early.clinic.test", "/", { method: "POST" });
  req.on("error", () => undefined);
  req.write(Buffer.alloc(100_000));
  const res = await response;
  assert.equal(res.statusCode, 413);
  req.destroy();
});

test("Expect: 100-continue is answered when the app is there, and not when it is not", async () => {
  const app = await rig.app((req, res) => req.pipe(res));
  await rig.publish({
    "expect.clinic.test": app.target,
    "refused.clinic.test": boxes({ ...app.upstream, port: 9 }),
  });
  const ask = (host: string) =>
    new Promise<{ continued: boolean; status: number }>((resolve, reject) => {
      let continued = false;
      const req = request({
        port: rig.edge.port,
        host: "127.0.0.1",
        method: "POST",
        headers: { host, expect: "100-continue", "content-length": "5" },
      });
      req.on("continue", () => {
        continued = true;
        req.end("hello");
      });
      req.on("response", (res) => {
        resolve({ continued, status: res.statusCode ?? 0 });
        res.resume();
        if (!continued) req.destroy();
      });
      req.on("error", reject);
      req.flushHeaders();
    });
  assert.deepEqual(await ask("expect.clinic.test"), { continued: true, status: 200 });
  assert.deepEqual(await ask("refused.clinic.test"), { continued: false, status: 502 });
});

test("all methods, empty answers and trailers pass", async () => {
  const app = await rig.app((req, res) => {
    if (req.url === "/trailers") {
      res.writeHead(200, { trailer: "x-sum" });
      res.write("body");
      res.addTrailers({ "x-sum": "42" });
      return void res.end();
    }
    if (req.url === "/304") return void res.writeHead(304, { etag: '"1"' }).end();
    res.writeHead(200, { "x-method": req.method, "content-length": "4" }).end("body");
  });
  await rig.publish({ "methods.clinic.test": app.target });
  for (const method of ["GET", "HEAD", "OPTIONS", "DELETE", "PATCH", "PUT", "PROPFIND"]) {
    const answer = await rig.fetch("methods.clinic.test", "/", { method });
    assert.equal(answer.headers["x-method"], method);
    assert.equal(answer.headers["content-length"], "4");
    assert.equal(answer.body, method === "HEAD" ? "" : "body");
  }
  assert.equal((await rig.fetch("methods.clinic.test", "/304")).status, 304);
  const trailers = await rig.fetch("methods.clinic.test", "/trailers", { headers: { te: "trailers" } });
  assert.equal(trailers.trailers["x-sum"], "42");
});
