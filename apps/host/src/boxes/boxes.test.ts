import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { createGuestClient } from "@platform/guest-protocol";
import { HostError } from "@platform/host-api";
import { groupsOf, spec, startTestHost, whyNoBoxes, type TestHost } from "../testing.ts";

const skip = whyNoBoxes() ?? false;

const guestOf = (host: TestHost, key: string) =>
  createGuestClient({
    baseUrl: `${host.client.address.url}/boxes/${key}/guest`,
    headers: { authorization: `Bearer ${host.client.address.token}` },
  });

async function traces(host: TestHost, key: string): Promise<string[]> {
  const found = (await groupsOf(host.tag)).filter((folder) => folder.endsWith(key));
  found.push(...(await readdir(join(host.dataDir, "boxes"))).filter((name) => name === key));
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    const text = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    if (text.includes(`box.${host.tag}.${key}`)) found.push(`process ${pid}`);
  }
  const mounts = await readFile("/proc/self/mountinfo", "utf8");
  if (mounts.includes(`${host.dataDir}/boxes/${key}`)) found.push("mount");
  return found;
}

test("a box runs once its agent answered, and a deleted one leaves nothing", { skip }, async (t) => {
  const host = await startTestHost(t);
  const box = await host.client.putBox("box-one", spec());
  assert.equal(box.state, "running");
  assert.ok(box.bootMs !== null && box.bootMs > 0);
  assert.equal(box.isolation?.level, "namespaces");
  const guest = guestOf(host, "box-one");
  t.after(() => guest.close());
  const result = await guest.exec("id -u && pwd && ls /opt /home && env");
  assert.notEqual((await traces(host, "box-one")).length, 0);
  await host.client.deleteBox("box-one");
  assert.deepEqual(await traces(host, "box-one"), []);
  assert.equal(await host.client.box("box-one"), null);
  await host.client.deleteBox("box-one");
});
