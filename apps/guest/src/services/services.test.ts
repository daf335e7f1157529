import assert from "node:assert/strict";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { GuestError, type GuestService } from "@platform/guest-protocol";
import { startAgent } from "../test-agent.ts";
import { backoffMs } from "./service.ts";

const spec = (command: string, more: Partial<GuestService> = {}): GuestService => ({
  name: "web",
  command,
  cwd: "~",
  env: {},
  restart: "never",
  ...more,
});

test("a service of the configuration runs once the agent answers", async (t) => {
  const { client } = await startAgent(t, {
    services: [spec("echo $WORD; sleep 600", { env: { WORD: "hello" } })],
  });
  await waitFor(
    "the service's line",
    async () => (await client.services.logs("web"))[0]?.line === "hello",
    5000,
  );
  assert.equal((await client.services.get("web")).status, "running");
});

test("the same spec leaves a running service alone, another one replaces it", async (t) => {
  const { client } = await startAgent(t);
  const first = await client.services.put(spec("sleep 600"));
  assert.equal((await client.services.put(spec("sleep 600"))).pid, first.pid);
  const second = await client.services.put(spec("sleep 601"));
  assert.notEqual(second.pid, first.pid);
  assert.throws(() => process.kill(first.pid ?? 0, 0));
  assert.notEqual((await client.services.restart("web")).pid, second.pid);
});

test("a service to be kept alive is started again with a growing pause", async (t) => {
  const { client } = await startAgent(t);
  await client.services.put(spec("echo try; exit 3", { restart: "always" }));
  const record = await waitFor(
    "the ends of three runs",
    async () => {
      const found = await client.services.get("web");
      // A run is counted when it begins, a moment before the pause is over.
      return found.restarts >= 2 && (found.exits ?? []).length >= 3 && found;
    },
    10_000,
  );
  assert.equal(record.exitCode, 3);
  const exits = record.exits ?? [];
  assert.ok(exits.length >= 3 && exits.every((one) => one.exitCode === 3 && one.ranMs < 5_000));
  assert.deepEqual([1, 2, 3, 8, 9, 100].map(backoffMs), [200, 400, 800, 25_600, 30_000, 30_000]);
});

test("a follower sees old lines, new lines and the end", async (t) => {
  const { client } = await startAgent(t);
  await client.services.put(spec("echo ready; read line; echo got $line >&2; printf rest; exit 4"));
  const seen: unknown[] = [];
  for await (const event of client.services.follow("web", 10)) {
    seen.push("exit" in event ? event : [event.stream, event.line]);
    if ("line" in event && event.line === "ready") await client.services.writeStdin("web", "word\n");
  }
  const outputs = seen.slice(1, -1).map(String).sort();
  assert.deepEqual(seen[0], ["stdout", "ready"]);
  assert.deepEqual(outputs, ["stderr,got word", "stdout,rest"]);
  assert.deepEqual(seen.at(-1), { exit: { code: 4, signal: null } });
  await assert.rejects(
    client.services.writeStdin("web", "more"),
    (error) => error instanceof GuestError && error.code === "CONFLICT",
  );
});

test("a flood of output keeps the log under its limit and its last line", async (t) => {
  const { client, folder } = await startAgent(t);
  await client.services.put(spec("seq 1 400000 | sed 's/$/ some more text to fill the line/'; echo last"));
  await waitFor("the end", async () => (await client.services.get("web")).status === "exited", 30_000);
  const lines = await client.services.logs("web", 2);
  assert.deepEqual(
    lines.map((entry) => entry.line),
    ["400000 some more text to fill the line", "last"],
  );
  let size = 0;
  for (const name of await readdir(join(folder, "log"))) size += (await stat(join(folder, "log", name))).size;
  assert.ok(size > 4 * 1024 * 1024 && size <= 8 * 1024 * 1024, `log takes ${size} bytes`);
});

test("removing stops the whole group, forgets the log and may be repeated", async (t) => {
  const { client, folder } = await startAgent(t);
  await client.services.put(spec("sleep 600 & echo $!; wait"));
  const line = await waitFor("the pid", async () => (await client.services.logs("web"))[0]?.line, 5000);
  await client.services.remove("web");
  await waitFor(
    "the child's end",
    async () => (await client.exec(`test -e /proc/${line}/exe || echo gone`)).stdout === "gone\n",
    5000,
  );
  await client.services.remove("web");
  assert.deepEqual(await readdir(join(folder, "log")), []);
  await assert.rejects(
    client.services.get("web"),
    (error) => error instanceof GuestError && error.code === "NOT_FOUND",
  );
});

test("a signal reaches the service, and a folder that is missing is a typed exit", async (t) => {
  const { client } = await startAgent(t);
  await client.services.put(spec("sleep 600"));
  await client.services.sendSignal("web", "SIGUSR1");
  const ended = await waitFor(
    "the end",
    async () => {
      const record = await client.services.get("web");
      return record.status === "exited" && record;
    },
    5000,
  );
  assert.deepEqual([ended.exitCode, ended.signal], [null, "SIGUSR1"]);
  const record = await client.services.put(spec("true", { cwd: "/no/such/folder" }));
  assert.deepEqual([record.status, record.exitCode], ["exited", 127]);
  assert.match(
    (await client.services.logs("web")).at(-1)?.line ?? "",
    /cwd '\/no\/such\/folder' does not exist/,
  );
});

test("a spec that cannot be is refused", async (t) => {
  const { client } = await startAgent(t);
  const isInvalid = (error: unknown) => error instanceof GuestError && error.code === "INVALID";
  await assert.rejects(client.services.put(spec("")), isInvalid);
  await assert.rejects(client.services.put(spec("true", { name: ".." })), isInvalid);
  await assert.rejects(client.services.put(spec("true", { name: "a/b" })), isInvalid);
});
