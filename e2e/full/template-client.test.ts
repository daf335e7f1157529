import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { imageOf, layoutOf, tinySystem } from "@platform/host-api/testing";
import { runTemplateSession } from "../sandbox-client/run-session.ts";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";

let platform: OwnPlatform;
before(async () => {
  platform = await startOwnPlatform();
});
after(() => platform?.stop());

/** A template of a small system, so that nothing has to be fetched. */
async function smallTemplate(): Promise<string> {
  const archive = await layoutOf(imageOf([{ bytes: await tinySystem() }]));
  const uploaded = await platform.post("/sandbox-template-images", archive);
  const { image } = uploaded.body["data"] as { image: string };
  const made = await platform.must("POST", "/sandbox-templates", {
    name: "Small",
    slug: "small-base",
    build_spec: { image },
  });
  const build = await platform.must("POST", `/sandbox-templates/${String(made["id"])}/builds`, {});
  for (const endsAt = Date.now() + 300_000; Date.now() < endsAt; await delay(500)) {
    const seen = await platform.must("GET", `/sandbox-template-builds/${String(build["id"])}`);
    if (seen["state"] === "ready") return "small-base";
    assert.notEqual(seen["state"], "failed", JSON.stringify(seen));
  }
  throw new Error("the template was not built in time");
}

test(
  "the published client builds templates",
  { skip: process.getuid?.() === 0 ? false : "templates are built as root only: files have many owners" },
  async (t) => runTemplateSession(t, platform, await smallTemplate()),
);
