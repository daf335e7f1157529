import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { startOwnPlatform, type OwnPlatform } from "./full/own-platform.ts";

let platform: OwnPlatform;
let sandbox: string;
before(async () => {
  platform = await startOwnPlatform();
  sandbox = await platform.sandbox("escape", {});
});
after(() => platform?.stop());

const portsOf = () =>
  Object.values(
    JSON.parse(readFileSync(join(platform.dataDir, "ports.json"), "utf8")) as Record<string, number>,
  );

/** Runs in the box; prints every attempt that was not refused. */
const knocker = (ports: readonly number[]) => `
const net = require("net");
const names = ["127.0.0.1","[::1]","0.0.0.0","[::]","0","127.1","[::ffff:127.0.0.1]","2130706433","0x7f000001","0177.0.0.1","localhost","localhost.","169.254.169.254"];
const ask = (text, to) => new Promise((done) => {
  const socket = net.connect(to, () => socket.write(text));
  let seen = "";
  socket.setTimeout(5000, () => socket.destroy());
  socket.on("data", (chunk) => (seen += chunk)).on("error", () => {}).on("close", () => done(seen.split("\\r\\n")[0]));
});
(async () => {
  const open = [];
  for (const port of ${JSON.stringify(ports)}) {
    if (await ask("GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n", { host: "127.0.0.1", port })) open.push("direct " + port);
    for (const name of names) for (const to of [{ host: "127.0.0.1", port: 3128 }, { path: "/run/agent/outbound.sock" }])
      for (const text of ["CONNECT " + name + ":" + port + " HTTP/1.1\\r\\nHost: example.com:443\\r\\n\\r\\n", "GET http://" + name + ":" + port + "/ HTTP/1.1\\r\\nHost: example.com\\r\\nConnection: close\\r\\n\\r\\n"]) {
        const line = await ask(text, to);
        if (!/ (400|403|502) /.test(line)) open.push(text.split("\\r\\n")[0] + " => " + line);
      }
  }
  process.stdout.write(JSON.stringify(open));
})();`;

test("no program of the machine is reached from a sandbox, however its address is written", async () => {
  const content = Buffer.from(knocker(portsOf())).toString("base64");
  await platform.must("POST", `/sandboxes/${sandbox}/files`, { path: "knock.cjs", content });
  assert.equal(await platform.exec(sandbox, "node knock.cjs"), "[]");
});

test("a sandbox cannot make namespaces, become root or read the machine's passwords", async () => {
  const script = "unshare -Ur true; unshare -m true; id -u; cat /etc/shadow /proc/1/root/etc/shadow; true";
  assert.equal(await platform.exec(sandbox, `(${script}) 2>/dev/null`), "1000\n");
});

/** One raw exchange with the edge; its status line. */
function raw(text: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(platform.edgePort, "127.0.0.1", () => socket.write(text));
    let seen = "";
    socket.setTimeout(5_000, () => socket.destroy());
    socket.on("data", (chunk: Buffer) => {
      seen += chunk.toString();
      if (seen.includes("\r\n")) socket.destroy();
    });
    socket.on("error", () => undefined); // A reset is a refusal too.
    socket.on("close", () => resolve(seen.split("\r\n")[0] ?? ""));
  });
}

test("internal routes are reached through the edge by no host name", async () => {
  for (const host of ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "edge.internal"])
    for (const path of [
      "/internal/edges/x/routes",
      "//internal/edges/x/routes",
      "/api/v1/internal/edges/x/routes",
    ])
      assert.match(
        await raw(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`),
        / (401|403|404) /,
        `${host} ${path}`,
      );
});

test("a request with two framings, two hosts or an unknown coding is refused", async () => {
  const head = `POST /api/v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1:${platform.edgePort}\r\n`;
  for (const rest of [
    "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "Content-Length: 6\r\nContent-Length: 0\r\n\r\n123456",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "Host: edge.internal\r\nContent-Length: 0\r\n\r\n",
  ])
    assert.match(await raw(head + rest), / 400 /, rest);
});

test("null characters, half characters and nested bodies are refused, never failures", async () => {
  let nested: unknown = 1;
  for (let depth = 0; depth < 2_000; depth++) nested = [nested];
  const answers = [
    await platform.api("GET", "/sandboxes?search=%00"),
    await platform.api("GET", "/sandboxes/%00"),
    await platform.api("POST", "/sandboxes", { name: "a\0b" }),
    await platform.api("POST", "/sandboxes", { name: "half", metadata: { a: "\ud800" } }),
    await platform.api("POST", "/sandboxes", { name: "nested", metadata: { nested } }),
  ];
  for (const { status, body } of answers) assert.ok(status >= 400 && status < 500, JSON.stringify(body));
});

test("after all of it no program failed or was started again", () => {
  const folder = join(platform.dataDir, "logs");
  for (const name of readdirSync(folder)) {
    const text = readFileSync(join(folder, name), "utf8");
    assert.doesNotMatch(text, /unhandled|uncaught|unexpected failure/i, name);
  }
});
