import assert from "node:assert/strict";
import { readdir, rm } from "node:fs/promises";
import { test } from "node:test";
import { startAgent } from "./test-agent.ts";

test("one call shows that commands run, as whom, and that files stay; it leaves nothing", async (t) => {
  const agent = await startAgent(t);
  const seen = await agent.client.selfTest();
  assert.deepEqual(
    { ...seen, clockMs: 0 },
    {
      ...{ exitCode: 0, uid: process.getuid?.(), home: agent.home, clockMs: 0 },
      ...{ durable: true, listed: true, services: 0, detail: "" },
    },
  );
  assert.ok(Math.abs(seen.clockMs - Date.now()) < 60_000);
  assert.deepEqual(await readdir(agent.workdir), []);
});

test("a working folder that is gone is told, not hidden by a command that runs", async (t) => {
  const agent = await startAgent(t);
  await rm(agent.workdir, { recursive: true });
  const seen = await agent.client.selfTest();
  assert.equal(seen.uid, process.getuid?.());
  assert.deepEqual([seen.durable, seen.listed], [false, false]);
  assert.match(seen.detail, /ENOENT/);
});
