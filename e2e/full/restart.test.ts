import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { Api } from "./kill/api.ts";
import { boxProcesses, databaseServers, programsOf } from "./kill/machine.ts";
import { serves, Walk } from "./kill/path.ts";
import { makeFolders, removeFolders, Server, spawnSupervisor, type Folders } from "./kill/server.ts";

const repository = join(import.meta.dirname, "..", "..");

async function start(t: TestContext): Promise<{ folders: Folders; server: Server }> {
  const folders = makeFolders();
  t.after(() => removeFolders(folders, null));
  return { folders, server: await Server.start(folders) };
}

test("after kill -9 of the supervisor the next one adopts all and shows the same", async (t) => {
  const { folders, server } = await start(t);
  const walk = new Walk(server);
  await walk.make("publish");
  const box = `sb-${walk.sandbox!.id}`;
  const before = {
    agents: boxProcesses(folders.data, box).map((one) => one.pid),
    servers: databaseServers(folders.data).map((one) => one.pid),
  };
  assert.ok(before.agents.length > 0);

  server.process.kill("SIGKILL");
  await once(server.process, "exit");
  const next = await Server.start(folders);
  t.after(() => next.stop());

  assert.equal(next.apiUrl, server.apiUrl);
  assert.equal(next.apiKey, server.apiKey);
  assert.deepEqual(
    programsOf(folders.data)
      .map((one) => /apps\/([\w-]+)\/src\/main\.ts/.exec(one.command)?.[1])
      .filter((name) => name !== "cli")
      .sort(),
    ["control-plane", "edge", "host", "object-store"],
  );
  assert.deepEqual(
    boxProcesses(folders.data, box).map((one) => one.pid),
    before.agents,
  );
  assert.deepEqual(
    databaseServers(folders.data).map((one) => one.pid),
    before.servers,
  );
  const sandbox = await next.api.get<{ state: string }>(`/sandboxes/${walk.sandbox!.id}`);
  assert.equal(sandbox.state, "running");
  const ran = await next.api.post<{ stdout: string }>(
    `/sandboxes/${walk.sandbox!.id}/exec`,
    { command: "ls" },
    "after-restart",
  );
  assert.match(ran.stdout, /server\.js/);
  await serves(walk.previewUrl!, "v1");
  await serves(walk.published[0]!.url, "v1");
  const later = walk.on(next);
  await later.counted();
  await later.delete();
  await later.gone();
});

test("a second supervisor on one data folder refuses and names the first", async (t) => {
  const { folders, server } = await start(t);
  t.after(() => server.stop());
  const second = spawnSupervisor(folders);
  let said = "";
  second.stdout?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  second.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const [code] = (await once(second, "close")) as [number];
  assert.notEqual(code, 0);
  assert.match(said.split("\n")[0]!, new RegExp(`is in use by process ${server.process.pid}\\.`));
  assert.equal((await server.api.get<unknown[]>("/sandboxes")).length, 0);
});

test("two control planes on one Postgres share the work and make nothing twice", async (t) => {
  const { server } = await start(t);
  t.after(() => server.stop());
  const second = await startSecondControlPlane(t, server);
  const first = server.api;
  const name = "shared";
  const bodies = { name, timeout_sec: 600 };
  const made = await Promise.all(
    [first, second.api, first, second.api].map((api) =>
      api.post<{ id: string }>("/sandboxes", bodies, "one-key"),
    ),
  );
  assert.equal(new Set(made.map((one) => one.id)).size, 1);
  const path = `/sandboxes/${made[0]!.id}`;
  const write = { path: "/workspace/note", content: Buffer.from("by the second").toString("base64") };
  await second.api.post(`${path}/files`, write, "write");
  const read = await first.post<{ stdout: string }>(`${path}/exec`, { command: "cat note" }, "read");
  assert.equal(read.stdout, "by the second");
  assert.equal((await first.get<unknown[]>("/sandboxes")).length, 1);

  // What one of them worked on when it died, the other completes.
  const databases = await Promise.all(
    ["a", "b"].map((one) => second.api.post<{ id: string }>("/databases", { name: one }, `database-${one}`)),
  );
  second.kill();
  for (const { id } of databases) {
    await waitFor(
      "the database to run",
      async () => (await first.get<{ state: string }>(`/databases/${id}`)).state === "running",
      40_000,
      100,
    );
  }
  assert.equal(databaseServers(server.folders.data).length, 2);
  await first.delete(path);
  for (const { id } of databases) await first.delete(`/databases/${id}`);
});

async function startSecondControlPlane(t: TestContext, server: Server): Promise<{ api: Api; kill(): void }> {
  const { pid } = server.program("control-plane")!;
  const environment = Object.fromEntries(
    readFileSync(`/proc/${pid}/environ`, "utf8")
      .split("\0")
      .filter((line) => line.includes("="))
      .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
  );
  const child = spawn(process.execPath, [join(repository, "apps/control-plane/src/main.ts")], {
    cwd: repository,
    env: { ...environment, CONTROL_PLANE_PORT: "0", NODE_CHANNEL_FD: undefined },
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  let out = "";
  child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString()));
  const line = await waitFor(
    "the second control plane",
    () => (out.includes("\n") ? out : undefined),
    60_000,
  );
  const { port } = JSON.parse(line) as { port: number };
  return {
    api: new Api(`http://127.0.0.1:${port}/api/v1`, server.apiKey),
    kill: () => child.kill("SIGKILL"),
  };
}
