import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";

let platform: OwnPlatform;
let images: string;
before(async () => {
  // A folder of its own without images: what serves in their place is what this is about.
  images = await mkdtemp(join(tmpdir(), "e2e-images-"));
  platform = await startOwnPlatform({ IMAGES_DIR: images });
});
after(async () => {
  await platform.stop();
  await rm(images, { recursive: true, force: true });
});

type Row = Record<string, unknown> & {
  image: { source: string; fallback: string | null; digest: string | null };
};

test("a sandbox of a template whose image was not built says that the machine's own system serves it", async () => {
  const id = await platform.sandbox("fallback", {});
  const row = (await platform.must("GET", `/sandboxes/${id}`)) as Row;
  assert.equal(row.image.source, "host");
  assert.match(row.image.fallback ?? "", /image/);
  assert.match(await platform.exec(id, "node --version"), /^v\d+/);
});

test("a template that the machine's own system cannot serve is refused with the reason", async () => {
  const { status, body } = await platform.api("POST", "/sandboxes", { template_id: "go-api" });
  assert.equal(status, 409);
  assert.equal((body["error"] as { code: string }).code, "TEMPLATE_NOT_READY");
});

test("a template of one's own is refused until a build of it is ready, and its failure is said", async () => {
  const bad = await platform.api("POST", "/sandbox-templates", { name: "Bad", build_spec: { steps: [{}] } });
  assert.equal(bad.status, 422);
  assert.match(JSON.stringify(bad.body), /INVALID_BUILDSPEC.*\/steps\/0\/run/);
  const template = await platform.must("POST", "/sandbox-templates", {
    name: "Mine",
    build_spec: { steps: [{ run: "true" }] },
  });
  const early = await platform.api("POST", "/sandboxes", { template_id: "mine" });
  assert.equal((early.body["error"] as { code: string }).code, "TEMPLATE_NOT_READY");
  const build = await platform.must("POST", `/sandbox-templates/${String(template["id"])}/builds`, {});
  let state = "queued";
  for (const endsAt = Date.now() + 60_000; state !== "failed" && Date.now() < endsAt;) {
    const found = await platform.must("GET", `/sandbox-template-builds/${String(build["id"])}`);
    state = String(found["state"]);
    if (state === "failed") assert.equal(found["error_code"], "BASE_MISSING");
  }
  assert.equal(state, "failed");
  assert.equal((await platform.api("DELETE", `/sandbox-templates/${String(template["id"])}`)).status, 204);
});
