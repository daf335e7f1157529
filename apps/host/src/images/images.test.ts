import assert from "node:assert/strict";
import { lstat, mkdir, mkdtemp, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { debianSources } from "./debian.ts";
import { findDefinition, imageDefinitions } from "./definitions.ts";
import { finishTree, withUser } from "./finish.ts";
import { definitionHash } from "./make-builtin.ts";
import { measureTree } from "./tree-digest.ts";

async function folder(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "image-tree-"));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}
const never = () => AbortSignal.timeout(60_000);

test("the hash of a definition changes with what it installs, and not with the order", () => {
  const standard = findDefinition("standard")!;
  const hash = definitionHash(standard, "24");
  assert.equal(definitionHash({ ...standard, packages: standard.packages.toReversed() }, "24"), hash);
  assert.notEqual(definitionHash({ ...standard, packages: [...standard.packages, "cowsay"] }, "24"), hash);
  assert.notEqual(definitionHash(standard, "25"), hash);
  const hashes = imageDefinitions.map((definition) => definitionHash(definition, "24"));
  assert.equal(new Set(hashes).size, hashes.length);
});

test("only the release itself is installed from, never another suite", () => {
  const targets = [
    "http://mirror.example/debian/ bookworm main",
    "http://mirror.example/debian/ bookworm-updates main",
    "http://mirror.example/debian-security/ bookworm-security main",
    "http://mirror.example/debian/ bookworm-backports main",
    "http://mirror.example/debian/ trixie main",
    "http://mirror.example/debian/ bookworm non-free",
    "https://other.example/node/ nodistro main",
  ].join("\n");
  assert.deepEqual(debianSources(targets, "bookworm"), [
    "deb http://mirror.example/debian-security/ bookworm-security main",
    "deb http://mirror.example/debian/ bookworm main",
    "deb http://mirror.example/debian/ bookworm-updates main",
  ]);
});

test("equal trees have equal digests, whenever they were made", async (t) => {
  const make = async () => {
    const root = await folder(t);
    await mkdir(join(root, "etc"));
    await writeFile(join(root, "etc/name"), "value");
    await symlink("name", join(root, "etc/link"));
    return root;
  };
  const [one, two] = [await make(), await make()];
  const { digest } = await measureTree(one, never());
  assert.equal((await measureTree(two, never())).digest, digest);
  await writeFile(join(two, "etc/name"), "other");
  assert.notEqual((await measureTree(two, never())).digest, digest);
});

test("links of a tree lead finishing nowhere outside of it", async (t) => {
  const [root, outside] = [await folder(t), await folder(t)];
  await writeFile(join(outside, "kept"), "precious");
  await mkdir(join(outside, "apt"));
  await writeFile(join(outside, "apt/sources.list"), "precious");
  await mkdir(join(root, "var"));
  for (const path of ["etc", "tmp", "var/log", "workspace", "run"]) await symlink(outside, join(root, path));
  await finishTree(root);
  assert.equal(await readFile(join(outside, "kept"), "utf8"), "precious");
  assert.equal(await readFile(join(outside, "apt/sources.list"), "utf8"), "precious");
  for (const path of ["etc", "tmp", "var/log", "workspace", "run"])
    assert.ok((await lstat(join(root, path))).isDirectory(), path);
  assert.equal(await readlink(join(root, "etc/hostname")), "/run/etc/hostname");
});

test("the box's user takes the place of whoever had its name or number", () => {
  const text = "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\nuser:x:7:7::/:/bin/sh\n";
  assert.equal(
    withUser(text, "user:x:1000:1000::/home/user:/bin/sh"),
    "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
  );
});
