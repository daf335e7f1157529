import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { guestOf, service, spec, startTestHost, whyNoBoxes, type TestHost } from "../testing.ts";

const skip = whyNoBoxes() ?? false;

/** A tree whose paths are longer than the system takes in one piece. */
const deepTree = `perl -e 'my $n = "d" x 200; for (1..60) { mkdir $n; chdir $n or die } open my $f, ">", "leaf"'`;

test("a tree deeper than the longest path does not keep its box from being deleted", { skip }, async (t) => {
  const host = await startTestHost(t);
  await host.client.putBox("box-deep", spec());
  assert.equal((await guestOf(t, host, "box-deep").exec(deepTree)).exitCode, 0);
  await host.client.deleteBox("box-deep");
  assert.deepEqual(await readdir(join(host.dataDir, "boxes")), []);
});

for (const [what, command] of [
  ["a folder", "rm outbound.sock && mkdir -p outbound.sock/full"],
  ["a link", "ln -sfn /dev/null outbound.sock"],
  ["a link to nowhere", "ln -sfn /nowhere/at/all outbound.sock"],
  ["a folder nobody may write to", "rm outbound.sock && mkdir outbound.sock && chmod 0 outbound.sock"],
]) {
  test(
    `a box with ${what} in place of its way out does not keep the daemon from starting`,
    { skip },
    async (t) => {
      const host = await startTestHost(t);
      await host.client.putBox("box-spoiled", spec());
      await host.client.putBox("box-honest", spec());
      const spoiled = await guestOf(t, host, "box-spoiled").exec(`cd /run/agent && ${command}`);
      assert.equal(spoiled.exitCode, 0, spoiled.stderr);
      await host.kill("SIGKILL");
      await host.start();
      assert.equal((await host.client.box("box-honest"))?.state, "running");
      const box = await host.client.box("box-spoiled");
      assert.ok(box?.state === "running" || box?.failure?.reason === "guest_lost", JSON.stringify(box));
      await host.client.deleteBox("box-spoiled");
      assert.equal(await host.client.box("box-spoiled"), null);
    },
  );
}

/** Takes the agent's place: accepts and never says a word, or says nonsense. */
const impostor = (answer: string) =>
  `node -e 'const fs=require("fs");const p="/run/agent/guest.sock";fs.rmSync(p,{force:true});` +
  `let n=0;require("net").createServer({allowHalfOpen:true},(s)=>{fs.writeFileSync("/workspace/seen",String(++n));` +
  `s.on("error",()=>{});${answer}}).listen(p)'`;

/** Asks for a port of the box and leaves; resolves when the daemon's side is closed. */
async function knock(host: TestHost, key: string): Promise<void> {
  const { url, token } = host.client.address;
  const socket = connect(Number(new URL(url).port), "127.0.0.1");
  socket.on("error", () => undefined); // The end is all that matters.
  await new Promise((done) => socket.once("connect", done));
  socket.write(`CONNECT ${key}:8080 HTTP/1.1\r\nhost: box\r\nauthorization: Bearer ${token}\r\n\r\n`);
  await new Promise((done) => setImmediate(done));
  socket.destroy();
}

test("an agent that never answers holds a connection for a while only", { skip }, async (t) => {
  const host = await startTestHost(t);
  await host.client.putBox("box-mute", spec({ services: [service("mute", impostor(""))] }));
  const openSockets = async () => (await readdir(`/proc/${host.pid}/fd`)).length;
  await waitFor(
    "the impostor to listen",
    async () => {
      await knock(host, "box-mute");
      return (await readdir(join(host.dataDir, "boxes/box-mute/disk/workspace"))).includes("seen");
    },
    20_000,
  );
  const before = await openSockets();
  for (let count = 0; count < 50; count++) await knock(host, "box-mute");
  await waitFor("the daemon to let go", async () => (await openSockets()) <= before + 5, 30_000);
});

for (const [what, answer] of [
  ["garbage", `s.write("\\0\\1nonsense\\r\\n\\r\\n")`],
  [
    "an endless head",
    `const go=()=>s.destroyed||s.write("a: "+"b".repeat(60000)+"\\r\\n",go);s.write("HTTP/1.1 200 OK\\r\\n");go()`,
  ],
]) {
  test(`an agent that answers ${what} harms no other box`, { skip }, async (t) => {
    const host = await startTestHost(t);
    await host.client.putBox("box-honest", spec());
    await host.client.putBox("box-liar", spec({ services: [service("liar", impostor(answer!))] }));
    await waitFor(
      "the impostor to be asked",
      async () => {
        await knock(host, "box-liar");
        return (await readdir(join(host.dataDir, "boxes/box-liar/disk/workspace"))).includes("seen");
      },
      20_000,
    );
    // A new daemon has no connection to the agent that the box began with.
    await host.kill("SIGKILL");
    await host.start();
    const { pid } = host;
    const liar = guestOf(t, host, "box-liar");
    await assert.rejects(liar.readFile("/etc/hostname").then((stream) => stream.toArray()));
    await assert.rejects(liar.exec("true", { timeoutMs: 1000 }));
    await assert.rejects(host.client.patchBox("box-liar", { env: { A: "b" } }));
    assert.equal((await guestOf(t, host, "box-honest").exec("echo well")).stdout, "well\n");
    assert.equal(host.pid, pid);
    process.kill(pid, 0);
  });
}
