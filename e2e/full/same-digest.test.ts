import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";

interface Made {
  readonly id: string;
  readonly digest: string;
}

let platform: OwnPlatform;
let sandboxId: string;
let deploymentId: string;
before(async () => {
  platform = await startOwnPlatform();
  sandboxId = await platform.sandbox("same-digest", {
    "package.json": JSON.stringify({
      name: "same",
      private: true,
      type: "module",
      dependencies: { ms: "2.1.2" },
    }),
    "server.js": `import { createServer } from "node:http";\nimport ms from "ms";\ncreateServer((_, res) => res.end(String(ms("1s")))).listen(process.env.PORT);\n`,
    "notes.md": "first\n",
  });
  await platform.exec(sandboxId, "npm install --package-lock-only --no-audit --no-fund");
  const made = (await platform.must("POST", "/deployments", { name: "same-digest" })) as { id: string };
  deploymentId = made.id;
});
after(async () => platform.stop());

const file = (path: string, text: string) =>
  platform.must("POST", `/sandboxes/${sandboxId}/files`, {
    path,
    content: Buffer.from(text).toString("base64"),
  });

async function publish(more: object = {}): Promise<Made> {
  const answer = await platform.must("POST", `/deployments/${deploymentId}/publish`, {
    source_sandbox_id: sandboxId,
    run_command: "node server.js",
    promote: false,
    ...more,
  });
  const release = answer["release"] as { id: string; artifact_sha256: string };
  return { id: release.id, digest: release.artifact_sha256 };
}

const at = (release: Made, path: string) =>
  platform.must("GET", `/deployments/${deploymentId}/releases/${release.id}/${path}`);

const published: Record<string, Made> = {};

test("the same sandbox state gives the same digest; a byte, the lockfile or a variable's name gives another", async () => {
  published["first"] = await publish();
  published["again"] = await publish();
  assert.equal(published["again"].digest, published["first"].digest);

  await file("notes.md", "First\n");
  published["one byte"] = await publish();
  await file("package.json", (await platform.exec(sandboxId, "cat package.json")).replace("2.1.2", "2.1.3"));
  await platform.exec(sandboxId, "npm install --package-lock-only --no-audit --no-fund");
  published["lockfile"] = await publish();
  published["a variable"] = await publish({ env: { GREETING: "hello there" } });
  published["its value"] = await publish({ env: { GREETING: "good evening" } });
  // The value is attached at each start and is no part of what was built.
  assert.equal(published["its value"].digest, published["a variable"].digest);
  const different = ["first", "one byte", "lockfile", "a variable"].map((name) => published[name]!.digest);
  assert.equal(new Set(different).size, 4, JSON.stringify(published));
});

test("a difference names files, packages and variables", async () => {
  const found = (await at(published["one byte"]!, `diff/${published["a variable"]!.id}`)) as {
    same: boolean;
    files: { changed: { path: string }[]; added: { path: string }[] };
    dependencies: unknown[];
    env: { added: string[] };
  };
  assert.equal(found.same, false);
  assert.deepEqual(found.env.added, ["GREETING"]);
  assert.deepEqual(found.dependencies, [{ name: "npm/ms", from: "2.1.2", to: "2.1.3" }]);
  const changed = found.files.changed.map((one) => one.path);
  assert.ok(changed.includes("package-lock.json") && changed.includes("node_modules/ms/package.json"));
  assert.ok(!changed.includes("server.js"));
  const none = (await at(published["first"]!, `diff/${published["again"]!.id}`)) as typeof found;
  assert.deepEqual([none.same, none.files.changed, none.dependencies], [true, [], []]);
});

test("a release has a bill of materials, which its signed statement names", async () => {
  const { digest, sbom } = (await at(published["first"]!, "sbom")) as {
    digest: string;
    sbom: { specVersion: string; components: { purl: string }[] };
  };
  assert.equal(sbom.specVersion, "1.6");
  assert.deepEqual(
    sbom.components.map((one) => one.purl),
    ["pkg:npm/ms@2.1.2"],
  );
  const { statement, verified } = (await at(published["first"]!, "provenance")) as {
    verified: boolean;
    statement: { predicate: { runDetails: { byproducts: { name: string; digest: { sha256: string } }[] } } };
  };
  assert.equal(verified, true);
  const [named] = statement.predicate.runDetails.byproducts;
  assert.deepEqual([named?.name, `sha256:${named?.digest.sha256}`], ["sbom", digest]);
});

test("a byte changed on the host's disk is found, named, and nothing of it starts", async () => {
  const release = published["lockfile"]!;
  const check = () => at(release, "verify") as Promise<Record<string, unknown>>;
  assert.equal((await check())["verified"], true);
  const blobs = join(platform.dataDir, "host", "artifacts", "blobs", "sha256");
  const manifest = JSON.parse(await readFile(join(blobs, release.digest), "utf8")) as {
    layers: { digest: string }[];
  };
  const layer = join(blobs, manifest.layers[0]!.digest.replace("sha256:", ""));
  const genuine = await readFile(layer);
  const forged = Buffer.from(genuine);
  forged.write("forged", genuine.indexOf("listen(process"));
  await writeFile(layer, forged);
  const seen = (await check()) as {
    verified: boolean;
    artifact: { part: string; files: { path: string }[] };
  };
  assert.equal(seen.verified, false);
  assert.deepEqual(
    [seen.artifact.part, seen.artifact.files.map((one) => one.path)],
    ["layer", ["server.js"]],
  );

  const refused = await platform.api(
    "POST",
    `/deployments/${deploymentId}/releases/${release.id}/promote`,
    {},
  );
  const error = refused.body["error"] as { code: string; details: { files: { path: string }[] } };
  assert.deepEqual([refused.status, error.code], [409, "PROVENANCE_INVALID"], JSON.stringify(error));
  assert.equal(error.details.files[0]?.path, "server.js");
  await writeFile(layer, genuine);
  const promoted = await platform.api(
    "POST",
    `/deployments/${deploymentId}/releases/${release.id}/promote`,
    {},
  );
  assert.equal(promoted.status, 200, JSON.stringify(promoted.body));
});
