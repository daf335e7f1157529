import assert from "node:assert/strict";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { imageOf, layoutOf, tinySystem } from "@platform/host-api/testing";
import { insideOf, startBoxes, whyNoBoxes, type Boxes } from "../testing-boxes.ts";

type Row = Record<string, unknown>;
const skip =
  whyNoBoxes() ?? (process.getuid?.() === 0 ? false : "images are made as root only: files have many owners");

/** Uploads a system whose /etc/version holds `version` and which writes its greeting when it starts. */
async function upload(boxes: Boxes, version: string, without: string[] = []): Promise<string> {
  const files = [{ name: "etc/version", content: `${version}\n` }];
  const image = imageOf([{ bytes: await tinySystem(without, files) }], {
    ...{ Env: ["GREETING=hello"], Entrypoint: ["sh", "-c"] },
    Cmd: ['echo "$GREETING" > /tmp/greeting; exec sleep 6000'],
  });
  const response = await boxes.fetch(
    `http://api.${boxes.domain}:${boxes.edge.port}/api/v1/sandbox-template-images`,
    {
      method: "POST",
      headers: { authorization: `Bearer ${boxes.key}`, "content-type": "application/x-tar" },
      body: await layoutOf(image),
    },
  );
  const answer = JSON.parse(response.text) as { data: { image: string; size_bytes: number } };
  assert.equal(response.status, 201, response.text);
  assert.ok(answer.data.size_bytes > 1_000_000);
  return answer.data.image;
}

async function built(boxes: Boxes, template: string, spec: Row): Promise<Row> {
  const at = `/sandbox-templates/${template}/builds`;
  const { id } = await boxes.must<{ id: string }>("POST", at, { build_spec: spec });
  return waitFor(
    "the build to end",
    async () => {
      const row = await boxes.must("GET", `/sandbox-template-builds/${id}`);
      return ["ready", "failed"].includes(String(row["state"])) ? row : undefined;
    },
    300_000,
  );
}

/** What a new sandbox of the template shows. */
async function look(boxes: Boxes, template: string): Promise<string> {
  const id = await boxes.sandbox({ template_id: template, size: "xs" });
  const said = await waitFor(
    "the greeting of its start command",
    async () => {
      const { stdout } = await boxes.must("POST", `/sandboxes/${id}/exec`, {
        command: "cat /etc/version /tmp/greeting 2>/dev/null; echo $GREETING",
      });
      return String(stdout).split("\n").length === 4 ? String(stdout) : undefined;
    },
    30_000,
  );
  await boxes.must("DELETE", `/sandboxes/${id}`);
  return said;
}

test("templates made of uploaded images are built, promoted and rolled back", { skip }, async (t) => {
  const boxes = await startBoxes(t);
  await boxes.must("POST", "/sandbox-templates", { name: "Tiny", slug: "tiny", build_spec: { image: "x" } });

  await t.test("the first build that works serves, later ones once they are promoted", async () => {
    const first = await built(boxes, "tiny", { image: await upload(boxes, "one") });
    assert.equal(first["state"], "ready", JSON.stringify(first));
    assert.equal(await look(boxes, "tiny"), "one\nhello\nhello\n");
    const second = await built(boxes, "tiny", {
      ...{ image: await upload(boxes, "two"), env: { GREETING: "bye" } },
    });
    assert.equal(second["state"], "ready", JSON.stringify(second));
    assert.equal(await look(boxes, "tiny"), "one\nhello\nhello\n");
    const promoted = await boxes.must("POST", "/sandbox-templates/tiny/promote", {});
    assert.deepEqual([promoted["active_build_id"], promoted["status"]], [second["id"], "active"]);
    assert.equal(await look(boxes, "tiny"), "two\nbye\nbye\n");
    const back = await boxes.must("POST", "/sandbox-templates/tiny/rollback", {});
    assert.deepEqual([back["active_build_id"], back["previous_build_id"]], [first["id"], second["id"]]);
    assert.equal(await look(boxes, "tiny"), "one\nhello\nhello\n");
    const { lines } = await boxes.must<{ lines: { line: string }[] }>(
      "GET",
      `/sandbox-template-builds/${String(second["id"])}/logs`,
    );
    assert.ok(lines.some(({ line }) => line.startsWith("layer 1 of 1")));
  });

  await t.test("what cannot boot is refused with what it lacks, and the one in use stays", async () => {
    const lacking = await built(boxes, "tiny", { image: await upload(boxes, "three", ["libgcc_s.so.1"]) });
    assert.deepEqual([lacking["state"], lacking["error_code"]], ["failed", "REQUIREMENTS_MISSING"]);
    assert.match(JSON.stringify(lacking["error"]), /libgcc-s1/);
    const unknown = await built(boxes, "tiny", { image: "node:22-slim" });
    assert.deepEqual([unknown["state"], unknown["error_code"]], ["failed", "REGISTRY_UNAVAILABLE"]);
    const gone = `upload:${crypto.randomUUID()}`;
    assert.equal((await built(boxes, "tiny", { image: gone }))["error_code"], "BASE_MISSING");
    const failed = await boxes.api("POST", "/sandbox-templates/tiny/promote", { build_id: lacking["id"] });
    assert.deepEqual([failed.status, failed.at("error", "code")], [409, "CONFLICT"]);
    assert.equal(await look(boxes, "tiny"), "one\nhello\nhello\n");
  });

  await t.test("a spec with two starts is refused", async () => {
    const both = { build_spec: { image: "node:22", from: "node" } };
    const checked = insideOf<Row>(await boxes.api("POST", "/sandbox-templates/validate", both), "validate");
    assert.deepEqual([checked["valid"], (checked["errors"] as Row[])[0]?.["pointer"]], [false, "/image"]);
  });
});
