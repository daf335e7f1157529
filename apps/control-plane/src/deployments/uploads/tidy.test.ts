import assert from "node:assert/strict";
import { createHash, randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { startTestApi, type TestApi } from "../../testing-api.ts";
import { whyNoBoxes } from "../../testing-boxes.ts";
import { freePort, startProgram } from "../../testing-programs.ts";
import { deploymentHandlers } from "../index.ts";
import { tidyUploads, uploadHandlers } from "./index.ts";

const skip = whyNoBoxes() ?? false;
const token = "host-token-of-the-test-00003";
const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");

/** The host program, of which only the artifact store is used here. */
async function startHost(t: TestContext) {
  const folder = await mkdtemp(join(tmpdir(), "uploads-test-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  await mkdir(join(folder, "guest"));
  const { port } = await startProgram(t, "host", {
    HOST_LISTEN_PORT: await freePort(),
    HOST_TOKEN: token,
    HOST_DATA_DIR: join(folder, "host"),
    HOST_ID: "test",
    GUEST_IMAGE_DIR: join(folder, "guest"),
    HOME: folder,
    TOOLCHAIN_DIR: await realpath(join(import.meta.dirname, "../../../../..", ".toolchain/node")),
    HOST_STOP_BOXES_ON_EXIT: "1",
  });
  return {
    address: { url: `http://127.0.0.1:${port}`, token },
    holds: (text: string) => existsSync(join(folder, "host", "artifacts", "chunks", sha256(text))),
  };
}

async function begin(api: TestApi, deploymentId: string, texts: readonly string[], key = api.operator) {
  const answer = await api.call("POST", `/deployments/${deploymentId}/uploads`, {
    key,
    body: {
      size_bytes: texts.join("").length,
      sha256: sha256(texts.join("")),
      chunks: texts.map((text) => ({ sha256: sha256(text), size_bytes: text.length })),
    },
    headers: { "idempotency-key": randomUUID() },
  });
  assert.equal(answer.status, 201, JSON.stringify(answer.body));
  const { id } = answer.body["data"] as { id: string };
  const path = `/deployments/${deploymentId}/uploads/${id}`;
  const put = async (text: string) => {
    const sent = await api.call("PUT", `${path}/chunks/${texts.indexOf(text)}`, {
      key,
      body: Buffer.from(text),
      headers: { "content-type": "application/octet-stream" },
    });
    assert.equal(sent.status, 200, JSON.stringify(sent.body));
  };
  const missing = async () => {
    const seen = await api.call("GET", path, { key });
    return seen.status === 200 ? (seen.body["data"] as { missing: number[] }).missing : null;
  };
  return { id, put, missing };
}

const deploy = async (api: TestApi, key = api.operator) => {
  const made = await api.call("POST", "/deployments", { key, body: { name: "clinic" } });
  return (made.body["data"] as { id: string }).id;
};

test("what an unfinished upload left is collected, and nothing that is still of use", { skip }, async (t) => {
  const host = await startHost(t);
  const api = await startTestApi(t, {
    handlers: (platform) => [...deploymentHandlers(platform), ...uploadHandlers(platform)],
    host: host.address,
  });
  const deploymentId = await deploy(api);
  const other = await api.otherTenant();
  const abandoned = await begin(api, deploymentId, [
    "only here",
    "in both",
    "of another tenant too",
    "never sent",
  ]);
  for (const text of ["only here", "in both", "of another tenant too"]) await abandoned.put(text);
  const waiting = await begin(api, deploymentId, ["in both", "not yet"]);
  assert.deepEqual(await waiting.missing(), [1]);
  const foreign = await begin(api, await deploy(api, other.key), ["of another tenant too"], other.key);
  await foreign.put("of another tenant too");
  const recent = await begin(api, deploymentId, ["used yesterday", "never"]);
  await recent.put("used yesterday");

  // A month passes for this tenant, in which only one chunk was used; nothing has run out yet.
  await api.platform.pool.query(
    "update upload_chunks set last_used_at = now() - interval '30 days' where tenant_id = $1 and sha256 <> $2",
    [api.tenantId, sha256("used yesterday")],
  );
  await tidyUploads(api.platform);
  assert.ok(["only here", "in both", "of another tenant too", "used yesterday"].every(host.holds));

  await api.platform.pool.query(
    "update uploads set expires_at = now() - interval '1 second' where id = any($1)",
    [[abandoned.id, recent.id]],
  );
  await tidyUploads(api.platform);
  assert.equal(await abandoned.missing(), null);
  assert.deepEqual(await waiting.missing(), [1]);
  assert.deepEqual(["only here", "in both", "of another tenant too", "used yesterday"].map(host.holds), [
    false,
    true,
    true,
    true,
  ]);

  // What went is asked for again, and what is sent again is kept.
  const again = await begin(api, deploymentId, ["only here", "used yesterday"]);
  assert.deepEqual(await again.missing(), [0]);
  await again.put("only here");
  await tidyUploads(api.platform);
  assert.deepEqual([await again.missing(), host.holds("only here")], [[], true]);
});
