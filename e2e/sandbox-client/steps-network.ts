import assert from "node:assert/strict";
import { once } from "node:events";
import { CommandExitError, Sandbox } from "e2b";
import { failure, until, type Step } from "./step.ts";

const serve = (port: number) =>
  `node -e 'require("http").createServer((q, r) => r.end(q.headers.host)).listen(${port}, "127.0.0.1")'`;

/** Answers an upgrade with one text frame; the box has no packages. */
const socketServer = `
const { createHash } = require("crypto");
const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
require("http").createServer((q, r) => r.writeHead(426).end()).on("upgrade", (q, s) => {
  const accept = createHash("sha1").update(q.headers["sec-websocket-key"] + guid).digest("base64");
  s.write("HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: " + accept + "\\r\\n\\r\\n");
  s.write(Buffer.concat([Buffer.from([0x81, 5]), Buffer.from("hello")]));
  s.on("error", () => s.destroy());
}).listen(3001, "0.0.0.0");
`;

export const networkSteps: readonly Step[] = [
  {
    name: "every port has an address, and one where nothing listens says so",
    isLean: true,
    run: async ({ sandbox }) => {
      const url = `https://${sandbox.getHost(3000)}/`;
      const closed = await fetch(url);
      assert.equal(closed.status, 502);
      assert.deepEqual(await closed.json(), {
        sandboxId: sandbox.sandboxId,
        message: "The sandbox is running but port is not open",
        port: 3000,
        code: 502,
      });
      await sandbox.commands.run(serve(3000), { background: true });
      await until("the server", async () => (await fetch(url)).status === 200);
      assert.equal(await (await fetch(url)).text(), sandbox.getHost(3000));
    },
  },
  {
    name: "a WebSocket reaches a port",
    run: async ({ sandbox }) => {
      await sandbox.files.write("socket.cjs", socketServer);
      await sandbox.commands.run("node socket.cjs", { background: true });
      const port = `${sandbox.getHost(3001)}/socket`;
      await until("the server", async () => (await fetch(`https://${port}`)).status === 426);
      const socket = new WebSocket(`wss://${port}`);
      const [event] = (await once(socket, "message")) as [{ data: string }];
      assert.equal(event.data, "hello");
      socket.close();
    },
  },
  {
    name: "of the agent, only what the protocol has is reachable, and only with the token",
    isLean: true,
    run: async ({ sandbox }) => {
      const agent = `https://${sandbox.getHost(49983)}`;
      for (const path of [
        "/services",
        "/config",
        "/ready",
        "/ports",
        "/probe",
        "/init",
        "/services/x/logs",
      ]) {
        for (const method of ["GET", "POST", "PUT"])
          assert.equal((await fetch(agent + path, { method })).status, 404, `${method} ${path}`);
      }
      assert.equal((await fetch(`${agent}/health`)).status, 204);
      for (const path of ["/metrics", "/envs", "/files?path=/etc/passwd"])
        assert.equal((await fetch(agent + path)).status, 401, path);
      const call = await fetch(`${agent}/process.Process/List`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-access-token": "wrong" },
        body: "{}",
      });
      assert.equal(call.status, 401);
    },
  },
  {
    name: "a sandbox whose ports are not public asks for its token",
    run: async () => {
      const sandbox = await Sandbox.create({ network: { allowPublicTraffic: false } });
      try {
        await sandbox.commands.run(serve(3000), { background: true });
        const url = `https://${sandbox.getHost(3000)}/`;
        const headers = { "e2b-traffic-access-token": sandbox.trafficAccessToken! };
        await until("the server", async () => (await fetch(url, { headers })).status === 200);
        assert.equal((await fetch(url)).status, 403);
        assert.equal((await sandbox.getInfo()).network?.allowPublicTraffic, false);
      } finally {
        await sandbox.kill();
      }
    },
  },
  {
    name: "network rules are set, read back and kept",
    run: async ({ sandbox }) => {
      const reach = "curl -sS -m 10 -o /dev/null https://198.51.100.7/";
      await sandbox.updateNetwork({ allowOut: ["example.com"], denyOut: ({ allTraffic }) => [allTraffic] });
      const { network } = await sandbox.getInfo();
      assert.deepEqual([network?.allowOut, network?.denyOut], [["example.com"], ["0.0.0.0/0"]]);
      const refused = await failure(sandbox.commands.run(reach));
      assert.ok(refused instanceof CommandExitError);
      assert.match(refused.stderr, /403/);
      await sandbox.updateNetwork({ allowInternetAccess: false });
      assert.equal((await sandbox.getInfo()).allowInternetAccess, false);
      await sandbox.updateNetwork({});
      assert.equal((await sandbox.getInfo()).network?.denyOut, undefined);
      const rules = { "example.com": [{ transform: { headers: { a: "b" } } }] };
      assert.match((await failure(sandbox.updateNetwork({ rules }))).message, /not supported/);
    },
  },
];
