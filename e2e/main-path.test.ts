import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

test("one command takes the example app the whole way, proves each step, and leaves nothing", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "main-path-"));
  chmodSync(folder, 0o711);
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const child = spawn(process.execPath, ["scripts/start.mjs", "--exit", "--data", join(folder, "data")], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  t.after(() => child.kill("SIGINT"));
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (text += chunk));
  const code = await new Promise<number | null>((resolve) => child.on("close", resolve));
  assert.equal(code, 0, text);
  assert.doesNotMatch(text, /✗/);
  for (const claim of [
    /signed provenance verified; preflight in a clean sandbox: port \d+ answers 200/,
    /✓ a new Postgres lets in with the credentials handed out/,
    /✓ a migration run in the sandbox changed that database/,
    /✓ the preview URL answers/,
    /✓ the first publish is an immutable release — sha256:/,
    /✓ production stores a form and pushes it live/,
    /✓ production serves without it/,
    /✓ rollback under load .* 0 of \d+ requests failed/,
    /✓ everything that the run made is gone/,
  ]) {
    assert.match(text, claim);
  }
});
