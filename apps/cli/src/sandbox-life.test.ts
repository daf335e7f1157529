import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { json, serve } from "@platform/sdk/testing";

const main = join(import.meta.dirname, "main.ts");
const id = "11111111-1111-4111-8111-111111111111";
const sandbox = { id, name: "one", state: "running", ready: true, created_at: "2026-01-01T00:00:00Z" };
const snapshot = {
  id: "s-1",
  status: "ready",
  comment: "before",
  size_bytes: 7,
  expires_at: null,
  created_at: "now",
};

async function cli(home: string, endpoint: string, args: string[]) {
  const child = spawn(process.execPath, [main, ...args], {
    cwd: home,
    env: {
      PATH: process.env["PATH"] ?? "",
      HOME: home,
      MIOSA_ENDPOINT: endpoint,
      MIOSA_API_KEY: "msk_u_test_key",
    },
  });
  const said = { out: "", err: "" };
  child.stdout.on("data", (chunk: Buffer) => (said.out += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (said.err += chunk.toString()));
  child.stdin.end();
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  return { code, ...said };
}

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "cli-life-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

test("a sandbox is paused, resumed, kept and put back by its name", async (t) => {
  const home = folderOf(t);
  const { origin, received } = await serve(t, (request, response) => {
    if (request.path.endsWith("/snapshots") && request.method === "POST")
      return json(response, 201, { data: snapshot });
    if (request.path.endsWith("/snapshots")) return json(response, 200, { data: [snapshot] });
    if (request.path.includes("/restore/")) return json(response, 200, sandbox);
    if (request.path.endsWith("/pause")) return json(response, 200, { id, state: "paused" });
    return json(response, 200, sandbox);
  });
  const run = (...args: string[]) => cli(home, `${origin}/api/v1`, ["sandbox", ...args]);
  const calls = () => received.map(({ method, path }) => `${method} ${path.replace("/api/v1", "")}`);
  const paused = await run("pause", "one", "--json");
  assert.deepEqual([paused.code, JSON.parse(paused.out)], [0, [{ id, state: "paused" }]], paused.err);
  assert.deepEqual(calls(), ["GET /sandboxes/by-name/one", `POST /sandboxes/${id}/pause`]);
  assert.equal((await run("resume", id)).out, `${id}\n`);
  const made = await run("snapshot", "create", id, "--comment", "before", "--expires", "14d");
  assert.equal(made.out, "s-1\n", made.err);
  assert.deepEqual(received.at(-1)?.body, { comment: "before", expiration: "14d" });
  assert.match((await run("snapshot", "ls", id)).out, /s-1 +ready +7 +now +never +before/);
  assert.equal((await run("snapshot", "restore", id, "s-1")).code, 0);
  assert.equal((await run("snapshot", "rm", "s-1")).out, "s-1\n");
  assert.deepEqual(calls().slice(-2), [`POST /sandboxes/${id}/restore/s-1`, "DELETE /snapshots/s-1"]);
});

test("files of any size go up and down, and a missing one leaves nothing behind", async (t) => {
  const home = folderOf(t);
  const { origin, received } = await serve(t, (request, response) => {
    if (request.path.includes("/files/workspace/gone"))
      return json(response, 404, {
        error: { code: "FILE_NOT_FOUND", message: "/workspace/gone does not exist." },
      });
    if (request.method === "PUT")
      return json(response, 200, { data: { path: "/workspace/a b.bin", size_bytes: 5 } });
    if (request.path.includes("/files/")) return void response.end("bytes of the file");
    return json(response, 200, sandbox);
  });
  writeFileSync(join(home, "a b.bin"), "12345");
  const run = (...args: string[]) => cli(home, `${origin}/api/v1`, ["sandbox", "files", ...args]);
  const up = await run("upload", id, "a b.bin");
  assert.equal(up.code, 0, up.err);
  assert.equal(received.at(-1)?.path, `/api/v1/sandboxes/${id}/files/workspace/a%20b.bin`);
  const down = await run("download", id, "/var/log/x.log");
  assert.equal(down.code, 0, down.err);
  assert.equal(readFileSync(join(home, "x.log"), "utf8"), "bytes of the file");
  const missing = await run("download", id, "gone");
  assert.deepEqual(
    [missing.code, existsSync(join(home, "gone")), existsSync(join(home, "gone.part"))],
    [1, false, false],
  );
  assert.match(missing.err, /FILE_NOT_FOUND/);
});

test("logs are followed until the stream ends", async (t) => {
  const home = folderOf(t);
  const { origin } = await serve(t, (request, response) => {
    if (!request.path.endsWith("/logs/stream")) return json(response, 200, sandbox);
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const line of ["one", "two"])
      response.write(
        `event: log_line\ndata: ${JSON.stringify({ type: "log_line", line, stream: "stdout" })}\n\n`,
      );
    return void response.end();
  });
  const followed = await cli(home, `${origin}/api/v1`, ["sandbox", "logs", "-f", id]);
  assert.match(followed.out, /^one\ntwo\n/, followed.err);
});

test("a full disk's remedy is not to try again", async (t) => {
  const home = folderOf(t);
  const { origin } = await serve(t, (request, response) =>
    request.method === "PUT"
      ? json(response, 507, {
          error: { code: "DISK_FULL", message: "The sandbox's disk is full.", retryable: false },
        })
      : json(response, 200, sandbox),
  );
  writeFileSync(join(home, "a"), "x");
  const full = await cli(home, `${origin}/api/v1`, ["sandbox", "files", "upload", id, "a"]);
  assert.equal(full.code, 4);
  assert.match(full.err, /Remove files that are not needed/);
  assert.doesNotMatch(full.err, /[Tt]ry again/);
});
