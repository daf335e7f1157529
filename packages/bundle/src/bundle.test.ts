import assert from "node:assert/strict";
import { chmod, lchown, mkdir, readdir, readFile, symlink, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import {
  ArtifactMissingError,
  buildBundle,
  BundleTamperedError,
  freezeFolder,
  materializeStatic,
  openArtifactStore,
  readBundle,
  StaticIndex,
  unpackBundle,
  verifyBundle,
} from "./index.ts";
import { temporaryFolder } from "./testing-folder.ts";

const declared = {
  kind: "static" as const,
  startCommand: null,
  port: null,
  healthCheckPath: null,
  env: [
    { name: "API_URL", scope: "run" as const, required: true },
    { name: "TOKEN", scope: "build" as const, required: false },
  ],
};

async function writeSite(folder: string, order: "forward" | "backward"): Promise<void> {
  const files: [string, string][] = [
    ["index.html", "<h1>hello</h1>"],
    ["a/b.txt", "b"],
    ["a-b.txt", "ab"],
    ["übung/ß.css", "css"],
    [`${"long/".repeat(40)}name.js`, "js"],
  ];
  for (const [path, text] of order === "forward" ? files : files.reverse()) {
    await mkdir(join(folder, path, ".."), { recursive: true });
    await writeFile(join(folder, path), text);
  }
  await symlink("a/b.txt", join(folder, "link.txt"));
}

test("two folders of equal content give one digest, whatever their times, owners and order", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  const [one, two] = [join(folder, "one"), join(folder, "two")];
  await writeSite(one, "forward");
  await writeSite(two, "backward");
  await utimes(join(two, "index.html"), 1, 1);
  await chmod(join(two, "index.html"), 0o600);
  await chmod(join(two, "a"), 0o700);
  if (process.getuid?.() === 0) await lchown(join(two, "a/b.txt"), 12_345, 54_321);

  const first = await buildBundle(store, one, declared);
  const second = await buildBundle(store, two, { ...declared, env: [...declared.env].reverse() });
  assert.deepEqual(second, first);
  assert.equal(first.files, 5);
  assert.equal(first.hasIndexHtml, true);
  const { config } = await readBundle(store, first.digest);
  assert.deepEqual(config.release.env, declared.env);
});

test("one byte, one executable bit, one link or one declared name changes the digest", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  const site = join(folder, "site");
  await writeSite(site, "forward");
  const digests = new Set<string>();
  const build = async (options = declared) =>
    digests.add((await buildBundle(store, site, options)).digest).size;

  assert.equal(await build(), 1);
  await writeFile(join(site, "a-b.txt"), "aB");
  assert.equal(await build(), 2);
  await chmod(join(site, "a-b.txt"), 0o755);
  assert.equal(await build(), 3);
  await symlink("index.html", join(site, "other.txt"));
  assert.equal(await build(), 4);
  assert.equal(await build({ ...declared, env: [{ name: "API_URI", scope: "run", required: true }] }), 5);
  await mkdir(join(site, "empty"));
  assert.equal(await build(), 6);
});

test("a bundle unpacks to what it was built from", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  const site = join(folder, "site");
  await writeSite(site, "forward");
  await chmod(join(site, "a-b.txt"), 0o755);
  const { digest } = await buildBundle(store, site, declared);
  await unpackBundle(store, digest, join(folder, "out"));
  const again = await freezeFolder(store, join(folder, "out"));
  const { manifest } = await verifyBundle(store, digest);
  assert.equal(again.digest, manifest.layers[0].digest);
});

test("a change of any blob is found, named, and unpacked nowhere", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  const site = join(folder, "site");
  await writeSite(site, "forward");
  const { digest } = await buildBundle(store, site, declared);
  const { manifest } = await readBundle(store, digest);
  const blobs = { manifest: digest, config: manifest.config.digest, layer: manifest.layers[0].digest };
  for (const [role, blob] of Object.entries(blobs)) {
    const genuine = await readFile(store.blobPath(blob));
    for (const at of [0, genuine.length >> 1, genuine.length - 1]) {
      const changed = Buffer.from(genuine);
      changed[at]! ^= 1;
      await writeFile(store.blobPath(blob), changed);
      const named = (error: unknown) =>
        error instanceof BundleTamperedError &&
        error.role === role &&
        error.wanted === blob &&
        error.found !== null;
      await assert.rejects(verifyBundle(store, digest), named);
      await assert.rejects(unpackBundle(store, digest, join(folder, "out")), named);
      await assert.rejects(materializeStatic(store, digest), named);
    }
    await writeFile(store.blobPath(blob), genuine.subarray(0, genuine.length - 512));
    await assert.rejects(verifyBundle(store, digest), BundleTamperedError);
    await assert.rejects(unpackBundle(store, digest, join(folder, "out")), BundleTamperedError);
    await store.remove(blob);
    const gone = role === "manifest" ? ArtifactMissingError : BundleTamperedError;
    await assert.rejects(verifyBundle(store, digest), gone);
    await assert.rejects(unpackBundle(store, digest, join(folder, "out")), gone);
    await writeFile(store.blobPath(blob), genuine);
  }
  await verifyBundle(store, digest);
  assert.deepEqual((await readdir(folder)).sort(), ["site", "store"]);
  assert.deepEqual(await readdir(join(store.folder, "static")), []);
  assert.deepEqual(await readdir(join(store.folder, "tmp")), []);
});

test("static files are unpacked once, with an index, and links have become files", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  const site = join(folder, "site");
  await writeSite(site, "forward");
  await symlink("a", join(site, "to-folder"));
  const { digest } = await buildBundle(store, site, declared);
  const all = await Promise.all([1, 2, 3].map(() => materializeStatic(store, digest)));
  assert.deepEqual(all[1], all[0]);
  const { folder: files, indexPath } = all[0]!;
  const index = StaticIndex.parse(JSON.parse(await readFile(indexPath, "utf8")));
  assert.equal(Object.keys(index.files).length, 6);
  assert.equal(index.skippedLinks, 1);
  assert.deepEqual(index.files["link.txt"], index.files["a/b.txt"]);
  assert.equal(await readFile(join(files, "link.txt"), "utf8"), "b");
  assert.deepEqual(await materializeStatic(await openArtifactStore(store.folder), digest), all[0]);
});

test("the index of the layout lists every bundle that concurrent builds made", async (t) => {
  const folder = await temporaryFolder(t);
  const stores = await Promise.all([1, 2, 3].map(() => openArtifactStore(join(folder, "store"))));
  const built = await Promise.all(
    stores.map(async (store, at) => {
      const site = join(folder, `site-${at}`);
      await mkdir(site);
      await writeFile(join(site, "index.html"), String(at));
      return (await buildBundle(store, site, declared)).digest;
    }),
  );
  const index = JSON.parse(await readFile(join(folder, "store", "index.json"), "utf8")) as {
    manifests: { digest: string }[];
  };
  assert.deepEqual(index.manifests.map((item) => item.digest).sort(), built.sort());
});
