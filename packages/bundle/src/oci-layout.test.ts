import assert from "node:assert/strict";
import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { Ajv, type AnySchema } from "ajv";
import addFormats from "ajv-formats";
import {
  type ArtifactStore,
  buildBundle,
  BundleTamperedError,
  collectGarbage,
  type Digest,
  diffContents,
  listDigests,
  materializeStatic,
  openArtifactStore,
  parseDigest,
  readBundle,
  readContents,
  sbomType,
  unpackBundle,
  verifyBundle,
} from "./index.ts";
import { temporaryFolder } from "./testing-folder.ts";
import { configSchema, indexSchema, layoutSchema, manifestSchema } from "./testing-oci-schemas.ts";

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

const sbom = JSON.stringify({ bomFormat: "CycloneDX", specVersion: "1.6" });

async function built(t: TestContext) {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  const app = join(folder, "app");
  await mkdir(join(app, "lib"), { recursive: true });
  await writeFile(join(app, "server.js"), "listen();\n");
  await writeFile(join(app, "lib/price.js"), "export const price = 10;\n");
  await writeFile(join(app, "index.html"), "<p>hello</p>\n");
  const { digest: sbomDigest } = await store.put(Buffer.from(sbom));
  const build = (more: Partial<Parameters<typeof buildBundle>[2]> = {}) =>
    buildBundle(store, app, {
      ...{ kind: "dynamic" as const, startCommand: "node server.js", port: 3000, healthCheckPath: "/" },
      ...{ env: [], sbom: sbomDigest, source: parseDigest(`sha256:${"ab".repeat(32)}`) },
      ...more,
    });
  return { folder, store, app, build, sbomDigest };
}

const readJson = async (path: string) => JSON.parse(await readFile(path, "utf8")) as Record<string, unknown>;

function assertIs(schema: AnySchema, value: unknown, what: string): void {
  const ajv = new Ajv({ strict: false });
  addFormats.default(ajv);
  const isValid = ajv.compile(schema);
  assert.ok(isValid(value), `${what}: ${JSON.stringify(isValid.errors)}`);
}

/** Every blob that a descriptor names is there, with its size and digest. */
async function assertThere(store: ArtifactStore, descriptors: readonly Descriptor[]): Promise<void> {
  for (const { digest, size } of descriptors) assert.equal(await store.sizeOf(parseDigest(digest)), size);
}

test("a store is an OCI image layout: every document keeps to its schema, every blob is where it is named", async (t) => {
  const { store, build, sbomDigest } = await built(t);
  const bundle = await build();
  assertIs(layoutSchema, await readJson(join(store.folder, "oci-layout")), "oci-layout");
  const index = await readJson(join(store.folder, "index.json"));
  assertIs(indexSchema, index, "index.json");
  const listed = index["manifests"] as Descriptor[];
  await assertThere(store, listed);
  assert.equal(listed.length, 2);
  for (const { digest } of listed) {
    const manifest = await readJson(store.blobPath(parseDigest(digest)));
    assertIs(manifestSchema, manifest, digest);
    const [config, layers] = [manifest["config"] as Descriptor, manifest["layers"] as Descriptor[]];
    await assertThere(store, [config, ...layers]);
    if (digest !== bundle.digest) {
      // The bill of materials, found by tools of the format as a referrer of the bundle.
      assert.equal(manifest["artifactType"], sbomType);
      assert.equal((manifest["subject"] as Descriptor).digest, bundle.digest);
      assert.equal(layers[0]!.digest, sbomDigest);
      continue;
    }
    const image = await readJson(store.blobPath(parseDigest(config.digest)));
    assertIs(configSchema, image, "config");
    const { diff_ids } = image["rootfs"] as { diff_ids: string[] };
    assert.deepEqual(
      diff_ids,
      layers.map((layer) => layer.digest),
    );
  }
});

test("another source, another bill of materials or another list of files is another digest", async (t) => {
  const { app, store, build } = await built(t);
  const first = (await build()).digest;
  assert.equal((await build()).digest, first);
  const other = await store.put(Buffer.from("{}"));
  const digests = new Set([
    first,
    (await build({ source: parseDigest(`sha256:${"cd".repeat(32)}`) })).digest,
    (await build({ sbom: other.digest })).digest,
    (await build({ env: [{ name: "TOKEN", scope: "run", required: false }] })).digest,
  ]);
  await writeFile(join(app, "lib/price.js"), "export const price = 11;\n");
  digests.add((await build()).digest);
  assert.equal(digests.size, 5);
});

async function changed(
  store: ArtifactStore,
  blob: Digest,
  from: string,
  to: string,
): Promise<() => Promise<void>> {
  const path = store.blobPath(blob);
  const genuine = await readFile(path);
  const at = genuine.indexOf(from);
  assert.ok(at > 0 && from.length === to.length);
  const forged = Buffer.from(genuine);
  forged.write(to, at);
  await writeFile(path, forged);
  return () => writeFile(path, genuine);
}

test("a changed layer is refused with the file that differs, its digest then and now", async (t) => {
  const { folder, store, build } = await built(t);
  const { digest } = await build();
  const layer = (await readBundle(store, digest)).manifest.layers[0].digest;
  const restore = await changed(store, layer, "price = 10", "price = 99");
  const isNamed = (error: unknown) => {
    assert.ok(error instanceof BundleTamperedError);
    const { part, expected, actual, files } = error.details;
    assert.equal(part, "layer");
    assert.equal(expected, layer);
    assert.notEqual(actual, layer);
    assert.deepEqual(
      files.map((one) => one.path),
      ["lib/price.js"],
    );
    assert.match(files[0]!.expected!, /^sha256:[0-9a-f]{64}$/);
    assert.notEqual(files[0]!.actual, files[0]!.expected);
    assert.match(error.message, /lib\/price\.js should be sha256:/);
    return true;
  };
  await assert.rejects(verifyBundle(store, digest), isNamed);
  await assert.rejects(unpackBundle(store, digest, join(folder, "out")), isNamed);
  await assert.rejects(materializeStatic(store, digest), isNamed);
  await restore();
  await verifyBundle(store, digest);
});

test("a changed or lost bill of materials or list of files refuses the start", async (t) => {
  const { folder, store, build, sbomDigest } = await built(t);
  const { digest } = await build();
  const contents = (await readBundle(store, digest)).config.release.contents!.digest;
  for (const [part, blob, from, to] of [
    ["sbom", sbomDigest, "1.6", "1.5"],
    ["list of files", contents, "server.js", "server.py"],
  ] as const) {
    const restore = await changed(store, blob, from, to);
    const isNamed = (error: unknown) => error instanceof BundleTamperedError && error.role === part;
    await assert.rejects(unpackBundle(store, digest, join(folder, "out")), isNamed);
    await store.remove(blob);
    await assert.rejects(unpackBundle(store, digest, join(folder, "out")), isNamed);
    await restore();
  }
  await unpackBundle(store, digest, join(folder, "out"));
});

test("static files that were changed after they were unpacked are unpacked anew", async (t) => {
  const { store, build } = await built(t);
  const { digest } = await build({ kind: "static", startCommand: null, port: null, healthCheckPath: null });
  const { folder } = await materializeStatic(store, digest);
  await chmod(join(folder, "index.html"), 0o644);
  await writeFile(join(folder, "index.html"), "<p>forged</p>\n");
  const again = await materializeStatic(store, digest);
  assert.equal(await readFile(join(again.folder, "index.html"), "utf8"), "<p>hello</p>\n");
});

test("a difference of two bundles names the files", async (t) => {
  const { app, store, build } = await built(t);
  const contentsOf = async () =>
    readContents(store, (await readBundle(store, (await build()).digest)).config.release.contents!.digest);
  const before = await contentsOf();
  await writeFile(join(app, "lib/price.js"), "export const price = 11;\n");
  await writeFile(join(app, "new.js"), "");
  await chmod(join(app, "server.js"), 0o755);
  const { added, changed, counts } = diffContents(before, await contentsOf());
  assert.deepEqual(
    added.map((one) => one.path),
    ["new.js"],
  );
  assert.deepEqual(
    changed.map((one) => one.path),
    ["lib/price.js", "server.js"],
  );
  assert.deepEqual(counts, { added: 1, removed: 0, changed: 2 });
});

test("a garbage collection keeps all parts of a kept bundle, and removes those of others", async (t) => {
  const { app, store, build } = await built(t);
  const kept = (await build()).digest;
  const all = await listDigests(store);
  await writeFile(join(app, "server.js"), "other();\n");
  await build();
  await collectGarbage(store, [kept], { graceMs: -1000 });
  assert.deepEqual(await listDigests(store), all);
  await verifyBundle(store, kept);
  await collectGarbage(store, [], { graceMs: -1000 });
  assert.deepEqual(await listDigests(store), []);
  assert.deepEqual((await readJson(join(store.folder, "index.json")))["manifests"], []);
});
