import assert from "node:assert/strict";
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { ImageError } from "../image-error.ts";
import { configOf } from "./config.ts";
import { loadImage, type ImageParts } from "./document.ts";
import { applyLayer } from "./layer.ts";
import { unpackLayout } from "./layout.ts";
import { missingIn } from "./needs.ts";
import { parseReference } from "./reference.ts";
import { openRegistry } from "./registry.ts";
import { imageOf, layoutOf, tarOf, type TestEntry, type TestImage } from "@platform/host-api/testing";
import { startRegistry } from "./testing/registry.ts";

const skip = process.getuid?.() === 0 ? false : "owners of files are set as root only";
const signal = AbortSignal.timeout(120_000);

async function folderOf(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "oci-test-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Puts the image's layers one over the other, and gives the tree's folder. */
async function unpack(t: TestContext, parts: ImageParts, limitBytes = 10_000_000): Promise<string> {
  const work = await folderOf(t);
  const root = join(work, "root");
  await mkdir(root);
  const budget = { limitBytes, bytes: 0, files: 0 };
  for (const layer of (await loadImage(parts, signal)).layers)
    await applyLayer(
      await parts.open(layer.descriptor, "blob", signal),
      layer,
      { root, work },
      budget,
      signal,
    );
  assert.deepEqual(await readdir(work), ["root"], "nothing else stays");
  return root;
}

async function layoutParts(t: TestContext, image: TestImage): Promise<ImageParts> {
  const folder = await folderOf(t);
  await writeFile(join(folder, "upload.tar"), await layoutOf(image));
  return unpackLayout(join(folder, "upload.tar"), join(folder, "layout"), 10_000_000, signal);
}

const refuses = (reason: string, detail: RegExp) => (error: unknown) => {
  assert.ok(error instanceof ImageError, String(error));
  assert.equal(error.failure.reason, reason, error.message);
  assert.match(error.message, detail);
  return true;
};

const lower: TestEntry[] = [
  { name: "etc/", type: "directory", mode: 0o750, uid: 0, gid: 7 },
  { name: "etc/kept", content: "kept", uid: 33, gid: 44, mode: 0o4755 },
  { name: "etc/gone", content: "gone" },
  { name: "opt/old/", type: "directory" },
  { name: "opt/old/one", content: "1" },
  { name: "opt/old/two", content: "2" },
  { name: "lib", type: "symlink", linkname: "usr/lib" },
  { name: "usr/lib/one.so", content: "one" },
  { name: "both", content: "a file that becomes a folder" },
];
const upper: TestEntry[] = [
  // What a layer removes comes before what it brings, wherever it stands.
  { name: "opt/old/new", content: "new" },
  { name: "opt/old/.wh..wh..opq" },
  { name: "./etc/.wh.gone" },
  { name: ".wh.never-there" },
  { name: "both/", type: "directory" },
  { name: "both/inside", content: "inside" },
  { name: "linked", type: "link", linkname: "both/inside" },
  { name: "dev/null", type: "character-device", devmajor: 1, devminor: 3 },
];

test("layers lie one over the other, with what the upper ones remove gone", { skip }, async (t) => {
  for (const compression of ["gzip", "zstd", "none"] as const) {
    const tars = [await tarOf(lower), await tarOf(upper)].map((bytes) => ({ bytes, compression }));
    const root = await unpack(t, await layoutParts(t, imageOf(tars)));
    const at = (path: string) => join(root, path);
    assert.deepEqual((await readdir(at("etc"))).sort(), ["kept"]);
    assert.deepEqual(await readdir(at("opt/old")), ["new"]);
    assert.equal(await readFile(at("both/inside"), "utf8"), "inside");
    assert.equal((await lstat(at("linked"))).ino, (await lstat(at("both/inside"))).ino);
    assert.equal(await readlink(at("lib")), "usr/lib");
    const kept = await lstat(at("etc/kept"));
    assert.deepEqual([kept.uid, kept.gid, kept.mode & 0o7777], [33, 44, 0o4755]);
    // The upper layer passes through etc and opt without an entry of them: they stay as they were.
    const etc = await lstat(at("etc"));
    assert.deepEqual([etc.gid, etc.mode & 0o7777], [7, 0o750]);
  }
});

test("nothing of an image leads out of its tree", { skip }, async (t) => {
  const outside = await folderOf(t);
  await writeFile(join(outside, "precious"), "untouched");
  const attempts: [string, TestEntry[][], RegExp | null][] = [
    ["a name that climbs", [[{ name: "../escape", content: "x" }]], /leaves the image/],
    ["a whiteout that climbs", [[{ name: "a/../../.wh.precious" }]], /leaves the image/],
    ["an absolute name", [[{ name: `${outside}/new`, content: "x" }]], null],
    [
      "through a link of the same layer",
      [
        [
          { name: "a", type: "symlink", linkname: outside },
          { name: "a/precious", content: "x" },
        ],
      ],
      /cannot be unpacked|damaged/,
    ],
    [
      "through a link of a lower layer",
      [[{ name: "a", type: "symlink", linkname: outside }], [{ name: "a/precious", content: "x" }]],
      null,
    ],
    [
      "a removal through a link of a lower layer",
      [
        [{ name: "a", type: "symlink", linkname: outside }],
        [{ name: "a/.wh.precious" }, { name: "b", content: "x" }],
      ],
      null,
    ],
    [
      "an emptying through a link of a lower layer",
      [
        [{ name: "a", type: "symlink", linkname: outside }],
        [{ name: "a/.wh..wh..opq" }, { name: "b", content: "x" }],
      ],
      null,
    ],
    [
      "a hard link out",
      [[{ name: "a", type: "link", linkname: join(outside, "precious") }]],
      /cannot be unpacked/,
    ],
    ["an owner beyond the box's", [[{ name: "a", content: "x", uid: 70_000 }]], /ids end at 65535/],
  ];
  for (const [what, layers, refusal] of attempts) {
    const image = imageOf(
      await Promise.all(layers.map(async (entries) => ({ bytes: await tarOf(entries) }))),
    );
    const work = unpack(t, await layoutParts(t, image));
    if (refusal) await assert.rejects(work, refuses("image_invalid", refusal), what);
    else await work;
    assert.deepEqual(await readdir(outside), ["precious"], what);
    assert.equal(await readFile(join(outside, "precious"), "utf8"), "untouched", what);
  }
});

test("what does not have its digest, is cut off or too large is refused", { skip }, async (t) => {
  const bytes = await tarOf(lower);
  const swapped = imageOf([{ bytes }]);
  const [layer] = [...swapped.blobs.keys()];
  swapped.blobs.set(layer!, Buffer.from("something else"));
  await assert.rejects(unpack(t, await layoutParts(t, swapped)), refuses("image_invalid", /damaged|digest/));
  const lied = imageOf([{ bytes, compression: "none", diffId: `sha256:${"0".repeat(64)}` }]);
  await assert.rejects(unpack(t, await layoutParts(t, lied)), refuses("image_invalid", /digest/));
  const missing = imageOf([{ bytes }]);
  missing.blobs.delete([...missing.blobs.keys()][0]!);
  await assert.rejects(unpack(t, await layoutParts(t, missing)), refuses("image_invalid", /lacks its part/));
  const bomb = imageOf([{ bytes: await tarOf([{ name: "zeros", content: "\0".repeat(5_000_000) }]) }]);
  await assert.rejects(unpack(t, await layoutParts(t, bomb), 1_000_000), refuses("disk_full", /larger disk/));
  const foreign = imageOf([{ bytes }], {}, "mips");
  await assert.rejects(unpack(t, await layoutParts(t, foreign)), refuses("image_invalid", /linux\/mips/));
  const folder = await folderOf(t);
  await writeFile(join(folder, "upload.tar"), "this is no tar at all".repeat(100));
  await assert.rejects(
    unpackLayout(join(folder, "upload.tar"), join(folder, "layout"), 1_000_000, signal),
    refuses("image_invalid", /Upload a tar of an OCI image layout/),
  );
});

test(
  "an image is pulled from a registry that wants a token, whose blobs lie elsewhere",
  { skip },
  async (t) => {
    const login = { username: "puller", password: "secret-of-the-test" };
    const registry = await startRegistry(t, { login, hasBlobServer: true });
    registry.images.set("team/app:1.2", imageOf([{ bytes: await tarOf(lower) }]));
    registry.failures = 1;
    const known = [{ name: "registry.test", url: registry.url, ...login }];
    // The blobs' server speaks plain HTTP from another origin: nothing is fetched from there.
    await assert.rejects(
      unpack(t, openRegistry("registry.test/team/app:1.2", known)),
      refuses("registry_unavailable", /not https/),
    );
    assert.ok(!registry.asked.some((line) => line.includes("blob-server")));
  },
);

test("a registry's refusals say what to correct", { skip }, async (t) => {
  const registry = await startRegistry(t);
  registry.images.set("library/app:latest", imageOf([{ bytes: await tarOf(lower) }]));
  registry.failures = 1;
  const known = [{ name: "docker.io", url: registry.url }];
  const root = await unpack(t, openRegistry("app", known));
  assert.equal(await readFile(join(root, "etc/kept"), "utf8"), "kept");
  assert.ok(registry.asked.includes("GET /v2/library/app/manifests/latest token"));
  await assert.rejects(
    unpack(t, openRegistry("app:none", known)),
    refuses("image_not_found", /does not have it/),
  );
  await assert.rejects(
    unpack(t, openRegistry(`app@sha256:${"1".repeat(64)}`, known)),
    refuses("image_not_found", /does not have it/),
  );
  assert.throws(
    () => openRegistry("elsewhere.test/app", known),
    refuses("registry_unavailable", /docker\.io/),
  );
  assert.throws(() => openRegistry("app", []), refuses("registry_unavailable", /Upload the image/));
  const closed = await startRegistry(t, { login: { username: "a", password: "b" } });
  await assert.rejects(
    unpack(t, openRegistry("app", [{ name: "docker.io", url: closed.url }])),
    refuses("image_not_found", /private/),
  );
  await assert.rejects(
    unpack(t, openRegistry("app", [{ name: "docker.io", url: "http://127.0.0.1:9" }])),
    refuses("registry_unavailable", /ECONNREFUSED/),
  );
});

test("references are read as engines read them", () => {
  const digest = `sha256:${"a".repeat(64)}`;
  const cases: [string, string, string, string][] = [
    ["node", "docker.io", "library/node", "latest"],
    ["node:22-slim", "docker.io", "library/node", "22-slim"],
    ["owner/app", "docker.io", "owner/app", "latest"],
    ["ghcr.io/owner/app:1", "ghcr.io", "owner/app", "1"],
    ["localhost:5000/app", "localhost:5000", "app", "latest"],
    [`r.test/a/b:1@${digest}`, "r.test", "a/b", digest],
  ];
  for (const [text, registry, repository, reference] of cases)
    assert.deepEqual(parseReference(text), { registry, repository, reference });
  for (const text of ["", "A", "a/../b", "r.test/", "a:b:c", "http://a", "a@sha256:1"])
    assert.throws(() => parseReference(text), refuses("image_invalid", /no reference/), text);
});

test("an image's words about itself become what a box can do", () => {
  const of = (config: Record<string, unknown>) =>
    configOf({ architecture: "amd64", os: "linux", rootfs: { type: "layers", diff_ids: [] }, config });
  const app = of({
    ...{
      User: "app:app",
      WorkingDir: "/srv/app",
      Env: ["A=1=2", "HOME=/x", "bad name=1", "PATH=/opt/bin:/bin"],
    },
    ...{
      Entrypoint: ["node", "it's.js"],
      Cmd: ["--port", "80 80"],
      ExposedPorts: { "8080/tcp": {}, "53/udp": {} },
    },
  });
  assert.deepEqual(app, {
    ...{ env: { A: "1=2", PATH: "/opt/bin:/bin" }, workdir: "/srv/app", user: "app:app", ports: [8080] },
    startCommand: `exec node 'it'\\''s.js' --port '80 80'`,
  });
  for (const config of [
    {},
    { Cmd: ["bash"] },
    { Cmd: ["/bin/sh"] },
    { Entrypoint: ["docker-entrypoint.sh"], Cmd: ["node"] },
  ])
    assert.equal(of(config).startCommand, null);
});

test("a tree without what the agent needs is told apart by what it lacks", async (t) => {
  const root = await folderOf(t);
  assert.match((await missingIn(root)).join("\n"), /\/bin\/sh[^]*glibc[^]*libstdc\+\+6/);
  await mkdir(join(root, "lib"));
  await writeFile(join(root, "lib/ld-musl-x86_64.so.1"), "");
  assert.match((await missingIn(root)).join("\n"), /musl \(Alpine\)/);
  // A link of the tree leads within the tree.
  await mkdir(join(root, "bin"));
  await symlink("/etc/os-release", join(root, "bin/sh"));
  assert.match((await missingIn(root)).join("\n"), /\/bin\/sh/);
  assert.deepEqual(await missingIn("/"), []);
});
