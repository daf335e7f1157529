import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { startOwnPlatform } from "./own-platform.ts";

const memoryMb = 256;
const mib = 1024 ** 2;
const port = 3000;

test("a preview's server that runs out of memory is told with the kernel's figures; a plain kill is not called that", async (t) => {
  const platform = await startOwnPlatform();
  t.after(() => platform.stop());
  const source = readFileSync(join(import.meta.dirname, "releases", "behaving.mjs"), "utf8");
  const { id } = (await platform.must("POST", "/sandboxes", {
    name: "hungry",
    cpu_count: 1,
    memory_mb: memoryMb,
    disk_size_mb: 512,
  })) as {
    id: string;
  };
  const until = async (what: string, check: () => Promise<boolean>) => {
    for (let tries = 0; !(await check()); tries++) {
      assert.ok(tries < 600, what);
      await delay(100);
    }
  };
  await until("it never ran", async () => (await platform.must("GET", `/sandboxes/${id}`))["ready"] === true);
  for (const [path, text] of [
    ["server.mjs", source],
    ["release.json", JSON.stringify({ name: "preview" })],
  ])
    await platform.must("POST", `/sandboxes/${id}/files`, {
      path,
      content: Buffer.from(text!).toString("base64"),
    });
  await platform.must("POST", `/sandboxes/${id}/services`, { name: "dev", command: "node server.mjs", port });
  let url = "";
  await until("it has no preview", async () => {
    const { status, body } = await platform.api("POST", `/sandboxes/${id}/previews`, {
      port,
      visibility: "public",
    });
    url = String(((body["data"] ?? body) as { url?: string }).url);
    return status < 300;
  });
  const answers = async () => (await platform.visit(url)).status === 200;
  const pid = async () => (await platform.must("GET", `/sandboxes/${id}/services/dev`))["pid"];
  const events = async () => {
    const { body } = await platform.api("GET", "/platform-events?after_seq=0&limit=200&types=sandbox.oom");
    return (body["data"] as { payload: Record<string, unknown> }[]).map(({ payload }) => payload);
  };
  const first = await pid();
  await platform.visit(new URL("/kill", url).href);
  await until("the killed server never came back", async () => (await pid()) !== first && (await answers()));
  assert.deepEqual(await events(), []);

  await platform.visit(new URL("/oom", url).href);
  await until("no event tells of it", async () => (await events()).length > 0);
  const [data] = await events();
  const evidence = data!["evidence"] as Record<string, unknown>;
  t.diagnostic(JSON.stringify(data));
  assert.ok(Number(evidence["kills"]) >= 1);
  assert.equal(evidence["memory_limit_bytes"], memoryMb * mib);
  assert.ok(Number(evidence["memory_peak_bytes"]) > (memoryMb * mib) / 2);
  assert.match(String(data!["detail"]), /memory.*larger size/);
  await until("the server never came back", answers);
});
