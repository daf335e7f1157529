import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { Fences } from "./fences.ts";

async function folderOf(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "fences-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

const none = { version: 0, hostnames: [] };

test("a fence stands until the edge has applied its version, also across a restart of the host", async (t) => {
  const folder = await folderOf(t);
  const fences = await Fences.open(folder);
  assert.deepEqual(fences.ask("edge-1", 3), none);
  await fences.put({ edge: "edge-1", version: 7, hostnames: ["a.test"] });
  await fences.put({ edge: "edge-1", version: 9, hostnames: ["b.test"] });
  const wanted = { version: 9, hostnames: ["a.test", "b.test"] };
  assert.deepEqual(fences.ask("edge-1", 8), wanted);
  assert.deepEqual(fences.ask("edge-2", 0), none, "another edge has none");
  const again = await Fences.open(folder);
  assert.deepEqual(again.ask("edge-1", 8), wanted);
  assert.deepEqual(again.ask("edge-1", 9), none);
  assert.deepEqual(again.ask("edge-1", 1), none, "it is gone for good");
});

test("a host says how long an edge did not ask, and never longer than it runs itself", async (t) => {
  const folder = await folderOf(t);
  const startedMs = performance.now();
  const fences = await Fences.open(folder);
  const never = await fences.put({ edge: "edge-1", version: 1, hostnames: ["*"] });
  assert.ok(never.quietMs <= performance.now() - startedMs);
  const askedMs = performance.now();
  fences.ask("edge-1", 0);
  const asked = await fences.put({ edge: "edge-1", version: 2, hostnames: ["*"] });
  assert.ok(asked.quietMs <= performance.now() - askedMs);
});

test("too many names are one fence around everything", async (t) => {
  const fences = await Fences.open(await folderOf(t));
  const names = (from: number) => Array.from({ length: 15_000 }, (_, i) => `n${from + i}.test`);
  await fences.put({ edge: "edge-1", version: 1, hostnames: names(0) });
  await fences.put({ edge: "edge-1", version: 2, hostnames: names(15_000) });
  assert.deepEqual(fences.ask("edge-1", 1), { version: 2, hostnames: ["*"] });
});
