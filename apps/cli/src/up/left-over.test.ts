import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { endLeftOvers, noteProcess } from "./left-over.ts";

function makeFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "left-over-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

test("a program that outlived its supervisor is ended and forgotten", async (t) => {
  const folder = makeFolder(t);
  const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
  t.after(() => child.kill("SIGKILL"));
  await once(child, "spawn");
  const ended = once(child, "exit");
  noteProcess(folder, "host", child.pid!);
  await endLeftOvers(folder);
  assert.deepEqual(await ended, [null, "SIGKILL"]);
  assert.deepEqual(readdirSync(folder), []);
});

test("another process that got the number later is left alone", async (t) => {
  const folder = makeFolder(t);
  writeFileSync(join(folder, "edge.process.json"), JSON.stringify({ pid: process.pid, startTicks: "1" }));
  await endLeftOvers(folder);
  assert.deepEqual(readdirSync(folder), []);
});

test("a note that was cut off while it was written does not stop a start", async (t) => {
  const folder = makeFolder(t);
  writeFileSync(join(folder, "edge.process.json"), "{");
  await endLeftOvers(folder);
  assert.deepEqual(readdirSync(folder), []);
});
