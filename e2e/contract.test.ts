import assert from "node:assert/strict";
import { after, before, describe } from "node:test";
import { commands } from "./contract/commands.ts";
import { extras } from "./contract/extras.ts";
import { identity } from "./contract/identity.ts";
import { lifecycle } from "./contract/lifecycle.ts";
import { startPlatform } from "./contract/platform.ts";
import { refusals } from "./contract/refusals.ts";
import { unwrapped } from "./contract/rules.ts";
import { sandboxes } from "./contract/sandboxes.ts";
import { createScene } from "./contract/scene.ts";
import { wholeRun } from "./contract/whole-run.ts";

/** The published clients run unchanged against this server: what they send and parse, over plain HTTP. */
const scene = createScene();
const { api, ok } = scene;

before(async () => {
  scene.platform = await startPlatform();
  api.connect(scene.platform.apiUrl, scene.platform.apiKey);
  scene.tenantEvents = api.stream("/events/stream?types=sandbox.*", (read) => read.comments.length > 0, {
    timeoutMs: 40_000,
  });
  const made = await api.create("/sandboxes?wait=60", {
    template_id: "miosa-sandbox",
    size: "small",
    name: "contract",
    timeout_sec: 3600,
    idle_timeout_sec: 0,
    persistent: true,
    external_workspace_id: "clinic-7",
    external_user_id: "u-42",
    metadata: { purpose: "demo" },
    github_repo_url: null,
  });
  ok(made, 201);
  assert.equal(made.headers["x-miosa-wait"], "ready");
  scene.box = String(unwrapped(made)["id"]);
});
after(() => scene.platform?.stop());

describe("identity and catalogue", () => identity(scene));
describe("refusals", () => refusals(scene));
describe("sandboxes", () => sandboxes(scene));
describe("commands, files and streams", () => commands(scene));
describe("beyond one sandbox and one command", () => extras(scene));
describe("idempotency", () => lifecycle.idempotency(scene));
describe("pagination", () => lifecycle.pagination(scene));
describe("previews", () => lifecycle.previews(scene));
describe("databases", () => lifecycle.databases(scene));
describe("releases", () => lifecycle.releases(scene));
describe("events", () => lifecycle.events(scene));
describe("every answer of this run", () => wholeRun(scene));
