import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { createPool, FolderInUseError, identify, query, startEmbeddedPostgres } from "./index.ts";

/** Undoes in reverse order: a server stops before its folder goes. */
function cleanup(t: TestContext): (undo: () => unknown) => void {
  const undos: (() => unknown)[] = [];
  t.after(async () => {
    for (const undo of undos.reverse()) await undo();
  });
  return (undo) => undos.push(undo);
}

function temporaryFolder(after: (undo: () => unknown) => void): string {
  const folder = mkdtempSync(join(tmpdir(), "embedded-"));
  chmodSync(folder, 0o711);
  after(() => rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 }));
  return folder;
}

async function rowsOf(url: string, text: string) {
  const pool = createPool(url, { max: 1 });
  try {
    return await query(pool, text);
  } finally {
    await pool.end();
  }
}

test("a server keeps its rows through a crash, is owned by one supervisor, and stops clean", async (t) => {
  const after = cleanup(t);
  const dataDir = temporaryFolder(after);
  const server = await startEmbeddedPostgres({ dataDir });
  after(() => server.stop());

  await rowsOf(server.url, "create table kept (id int)");
  await rowsOf(server.url, "insert into kept values (1)");
  assert.equal(statSync(join(dataDir, "password")).mode & 0o777, 0o600);
  if (process.getuid?.() === 0) assert.notEqual(statSync(`/proc/${server.pid}`).uid, 0);
  assert.ok(!readFileSync(`/proc/${server.pid}/environ`, "utf8").includes("HOME="));

  await assert.rejects(
    startEmbeddedPostgres({ dataDir }),
    (error) => error instanceof FolderInUseError && error.message.includes(String(process.pid)),
  );

  const before = server.pid;
  process.kill(before, "SIGKILL");
  const rows = await waitFor(
    "the row after the crash",
    () => rowsOf(server.url, "select id from kept"),
    20_000,
  );
  assert.deepEqual(rows, [{ id: 1 }]);
  await waitFor("the supervisor to know the new process", () => server.pid !== before, 10_000);

  await server.stop();
  assert.equal(identify(server.pid), null);
});

test("a server that outlives its killed supervisor is adopted by the next one", async (t) => {
  const after = cleanup(t);
  const dataDir = temporaryFolder(after);
  const script = `
    import { startEmbeddedPostgres } from ${JSON.stringify(import.meta.resolve("./index.ts"))};
    const server = await startEmbeddedPostgres({ dataDir: ${JSON.stringify(dataDir)}, durable: false });
    console.log(server.pid);
    setInterval(() => {}, 1000);`;
  const supervisor = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
    env: {
      ...process.env,
      PGOPTIONS: "-c statement_timeout=1",
      PGSSLMODE: "require",
      PGPASSWORD: "wrong",
      PGREPLICATION: "true",
    },
  });
  after(() => supervisor.kill("SIGKILL"));
  const [firstLine] = (await once(supervisor.stdout, "data")) as [Buffer];
  supervisor.kill("SIGKILL");
  await once(supervisor, "exit");

  const server = await startEmbeddedPostgres({ dataDir });
  after(() => server.stop());
  assert.equal(server.pid, Number(firstLine));
});

test("a data folder below a closed folder is served from an open one", async (t) => {
  if (process.getuid?.() !== 0) return t.skip("only root runs the server as another user");
  const after = cleanup(t);
  const closed = temporaryFolder(after);
  const dataDir = join(closed, "data");
  mkdirSync(dataDir);
  chmodSync(closed, 0o700);
  after(() => {
    const home = readFileSync(join(dataDir, "location"), "utf8").trim();
    assert.equal(dirname(home), "/var/lib/embedded-postgres/data");
    rmSync(home, { recursive: true, force: true });
  });
  const server = await startEmbeddedPostgres({ dataDir, durable: false });
  after(() => server.stop());
  assert.deepEqual(await rowsOf(server.url, "select 1 as one"), [{ one: 1 }]);
});
