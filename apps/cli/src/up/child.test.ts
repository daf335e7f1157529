import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { identify, lockFolder } from "@platform/postgres";
import { restartDelayMs, SupervisedChild, type ChildEvent, type ChildSpec } from "./child.ts";
import { cleanEnvironment } from "./clean-environment.ts";
import { choosePorts, loadSecrets } from "./data-folder.ts";

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "up-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const listens = `
  import { createServer } from "node:http";
  const server = createServer((request, response) => response.end(process.pid + ""));
  server.listen(Number(process.env.PORT), "127.0.0.1", () => console.log(JSON.stringify({ ready: true, port: server.address().port })));
  process.on("disconnect", () => process.exit(0));
  process.on("SIGTERM", () => process.exit(0));`;

function programOf(
  t: TestContext,
  source: string,
  settings: Record<string, string | number> = { PORT: 0 },
): ChildSpec {
  const folder = folderOf(t);
  writeFileSync(join(folder, "program.mjs"), source);
  return {
    name: "program",
    command: [process.execPath, join(folder, "program.mjs")],
    environment: cleanEnvironment("/usr/bin:/bin", folder, settings),
    cwd: folder,
    logFile: join(folder, "program.log"),
    healthy: async (port) => (await fetch(`http://127.0.0.1:${port}/`)).ok,
    startTimeoutMs: 20_000,
    stopTimeoutMs: 5_000,
  };
}

function supervise(t: TestContext, spec: ChildSpec): { child: SupervisedChild; events: ChildEvent[] } {
  const events: ChildEvent[] = [];
  const child = new SupervisedChild(spec, (event) => events.push(event));
  t.after(() => child.stop());
  return { child, events };
}

test("a killed program runs again on the same port, and a stopped one stays away", async (t) => {
  const [ports] = [await choosePorts(folderOf(t), null)];
  const { child, events } = supervise(t, programOf(t, listens, { PORT: ports.host }));
  await child.start();
  const first = child.pid;
  assert.ok(first);
  process.kill(first, "SIGKILL");
  await waitFor("the second process", () => child.isReady && child.pid !== first, 20_000);
  assert.deepEqual(
    events.map((event) => (event.type === "ready" ? event.port : event.type)),
    [ports.host, "exited", ports.host],
  );
  const second = child.pid;
  assert.ok(second);
  await child.stop();
  assert.equal(identify(second), null);
  assert.equal(child.restarts, 1);
});

test("pauses before a restart double from 200 ms to 5 s", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 50].map(restartDelayMs), [200, 400, 800, 1600, 3200, 5000, 5000]);
});

test("a program that ends at start is named with the end of its log", async (t) => {
  const { child } = supervise(t, programOf(t, 'console.error("setting X is missing"); process.exit(7);'));
  await assert.rejects(child.start(), {
    code: "PROGRAM_FAILED",
    message: /ended at start with 7[\s\S]*setting X is missing/,
  });
});

test("a program sees its settings and nothing inherited, and no secret stands in its arguments", async (t) => {
  process.env["INHERITED_BY_NOBODY"] = "1";
  t.after(() => delete process.env["INHERITED_BY_NOBODY"]);
  const { child } = supervise(t, programOf(t, listens, { PORT: 0, HOST_TOKEN: "very-secret" }));
  await child.start();
  const environ = readFileSync(`/proc/${child.pid}/environ`, "utf8").split("\0").filter(Boolean);
  const names = environ
    .map((line) => line.slice(0, line.indexOf("=")))
    .filter((name) => !name.startsWith("NODE_CHANNEL_"));
  assert.deepEqual(names.sort(), ["HOME", "HOST_TOKEN", "LANG", "PATH", "PORT"]);
  assert.doesNotMatch(readFileSync(`/proc/${child.pid}/cmdline`, "utf8"), /very-secret/);
});

test("a program does not outlive a supervisor that was killed", async (t) => {
  const spec = programOf(t, listens);
  const script = `
    import { SupervisedChild } from ${JSON.stringify(import.meta.resolve("./child.ts"))};
    const child = new SupervisedChild({ ...${JSON.stringify(spec)}, healthy: async () => true });
    await child.start();
    console.log(child.pid);`;
  const supervisor = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => supervisor.kill("SIGKILL"));
  const [line] = (await once(supervisor.stdout, "data")) as [Buffer];
  supervisor.kill("SIGKILL");
  await waitFor("the program's end", () => identify(Number(line)) === null, 10_000);
});

test("secrets are made once, for the owner only", (t) => {
  const folder = folderOf(t);
  const secrets = loadSecrets(folder);
  assert.match(secrets.encryptionKey, /^[0-9a-f]{64}$/);
  assert.deepEqual(loadSecrets(folder), secrets);
  assert.equal(new Set(Object.values(secrets)).size, 5);
});

test("ports stay the same over restarts, and a wanted one that is taken is refused", async (t) => {
  const folder = folderOf(t);
  const ports = await choosePorts(folder, null);
  assert.equal(new Set(Object.values(ports)).size, 5);
  assert.deepEqual(await choosePorts(folder, null), ports);
  const server = createServer().listen(ports.edge, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  await assert.rejects(choosePorts(folder, ports.edge), { code: "PORT_IN_USE" });
  assert.notEqual((await choosePorts(folder, null)).edge, ports.edge);
});

test("a second supervisor on the data folder is refused and names the first", async (t) => {
  const folder = folderOf(t);
  const lock = lockFolder(folder);
  t.after(() => lock.release());
  const main = join(import.meta.dirname, "..", "main.ts");
  const second = spawn(process.execPath, [main, "up", "--data", folder], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let text = "";
  second.stderr.on("data", (chunk: Buffer) => (text += chunk.toString()));
  const [code] = (await once(second, "close")) as [number];
  assert.equal(code, 1);
  assert.match(text, /DATA_IN_USE/);
  assert.match(text, new RegExp(`process ${process.pid}\\b`));
});
