import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import type { Socket } from "node:net";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { dialBoxPort, HostClient, HostError, type BoxDoor } from "@platform/host-api";
import { guestOf, service, spec, startTestHost, whyNoBoxes } from "../testing.ts";

const skip = whyNoBoxes() ?? false;
const hasCode = (code: string) => (error: unknown) => error instanceof HostError && error.code === code;
const echo = service(
  "echo",
  `node -e 'require("net").createServer({allowHalfOpen:true},s=>s.pipe(s)).listen(7000,"0.0.0.0")'`,
);

test(
  "a raw stream to a port carries many bytes both ways and ends one side at a time",
  { skip },
  async (t) => {
    const host = await startTestHost(t);
    await host.client.putBox("box-echo", spec({ services: [echo] }));
    const socket = await waitFor("the echo server", () => host.client.dialPort("box-echo", 7000), 10_000);
    const sent = randomBytes(32 * 1024 * 1024);
    const hash = createHash("sha256");
    let size = 0;
    socket.on("data", (chunk: Buffer) => {
      hash.update(chunk);
      size += chunk.length;
    });
    socket.resume();
    socket.end(sent);
    await once(socket, "end");
    assert.equal(size, sent.length);
    assert.equal(hash.digest("hex"), createHash("sha256").update(sent).digest("hex"));
  },
);

test("the agent and what listens only inside are doors of their own", { skip }, async (t) => {
  const host = await startTestHost(t);
  const inside = service(
    "inside",
    `node -e 'require("net").createServer(s=>s.end("inside")).listen(7002,"127.0.0.1")'`,
  );
  await host.client.putBox("box-doors", spec({ services: [inside] }));
  const dial = (door: BoxDoor) => dialBoxPort(host.client.address, "box-doors", door);
  const readAll = async (socket: Socket) => {
    let seen = "";
    for await (const part of socket) seen += String(part);
    return seen;
  };
  const socket = await waitFor("the server", () => dial("any-7002"), 10_000);
  assert.equal(await readAll(socket), "inside");
  await assert.rejects(dial(7002), hasCode("PORT_REFUSED"));
  await assert.rejects(dial("any-7003"), hasCode("PORT_REFUSED"));
  const agent = await dial("agent");
  agent.end("GET /health HTTP/1.1\r\nhost: box\r\nconnection: close\r\n\r\n");
  assert.match(await readAll(agent), /^HTTP\/1.1 204 /);
});

test("a port where nothing accepts, an unknown box and a wrong token are told apart", { skip }, async (t) => {
  const host = await startTestHost(t);
  await host.client.putBox("box-quiet", spec());
  await assert.rejects(host.client.dialPort("box-quiet", 7001), hasCode("PORT_REFUSED"));
  await assert.rejects(host.client.dialPort("box-absent", 7001), hasCode("NOT_FOUND"));
  const stranger = new HostClient({ url: host.client.address.url, token: "not-the-token" });
  t.after(() => stranger.close());
  await assert.rejects(stranger.boxes(), hasCode("UNAUTHORIZED"));
  await assert.rejects(stranger.dialPort("box-quiet", 7001), hasCode("UNAUTHORIZED"));
  await assert.rejects(host.client.deleteBox("x"), hasCode("INVALID"));
});

test(
  "files stream through the host in both directions and the agent's errors stay its own",
  { skip },
  async (t) => {
    const host = await startTestHost(t);
    await host.client.putBox("box-files", spec());
    const guest = guestOf(t, host, "box-files");
    const content = randomBytes(20 * 1024 * 1024);
    await guest.writeFile("/workspace/big.bin", content);
    const hash = createHash("sha256");
    for await (const chunk of await guest.readFile("/workspace/big.bin")) hash.update(chunk as Buffer);
    assert.equal(hash.digest("hex"), createHash("sha256").update(content).digest("hex"));
    const missing = await host.client.guest("box-files", "GET", "/files?path=/workspace/none");
    await missing.body.dump();
    assert.equal(missing.statusCode, 404);
  },
);

test("output reaches the caller while the program still runs", { skip }, async (t) => {
  const host = await startTestHost(t);
  await host.client.putBox(
    "box-live",
    spec({ services: [service("talk", "echo first; read line; echo $line")] }),
  );
  const guest = guestOf(t, host, "box-live");
  const seen: string[] = [];
  for await (const event of guest.services.follow("talk")) {
    if ("exit" in event) break;
    seen.push(event.line);
    if (event.line === "first") await guest.services.writeStdin("talk", "second\n");
  }
  assert.deepEqual(seen, ["first", "second"]);
});
