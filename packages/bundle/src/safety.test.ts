import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import {
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { pack, type Header } from "tar-stream";
import {
  ArchiveTooLargeError,
  freezeFolder,
  openArtifactStore,
  SourceChangedError,
  SymlinkEscapesError,
  unpackSource,
  UnsafeArchiveError,
  type ArtifactStore,
} from "./index.ts";
import { walkSource } from "./source.ts";
import { temporaryFolder } from "./testing-folder.ts";

type Item = Partial<Header> & { name: string; body?: string };

async function putTar(store: ArtifactStore, items: readonly Item[]) {
  const archive = pack();
  for (const { body, ...header } of items) archive.entry(header, body ?? "");
  archive.finalize();
  return (await store.put(archive as AsyncIterable<Buffer>)).digest;
}

test("links that leave the folder are refused by path and target", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  for (const [at, target] of ["/etc/passwd", "../x", "../../x", "a/../../x", "a/../x", "."].entries()) {
    const source = join(folder, `source-${at}`);
    await mkdir(join(source, "deep"), { recursive: true });
    await symlink(target, join(source, "deep", "link"));
    const freezing = freezeFolder(store, source);
    if (target === "../x" || target === ".") await freezing;
    else
      await assert.rejects(
        freezing,
        (error) =>
          error instanceof SymlinkEscapesError && error.path === "deep/link" && error.target === target,
      );
  }
});

test("a chosen subfolder may not pass through a link", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  const box = join(folder, "box");
  await mkdir(join(box, "real", "app"), { recursive: true });
  await writeFile(join(box, "real", "app", "x"), "x");
  await symlink("/etc", join(box, "workspace"));
  assert.equal((await freezeFolder(store, box, { subfolder: "real/app" })).files, 1);
  for (const subfolder of ["workspace", "workspace/ssl", "real/../workspace", ".."])
    await assert.rejects(freezeFolder(store, box, { subfolder }), SymlinkEscapesError);
});

test("sockets and pipes are counted and left out; hard links are files; excluded names are not read", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  const source = join(folder, "source");
  await mkdir(join(source, "a", "node_modules"), { recursive: true });
  await mkdir(join(source, "b", "out"), { recursive: true });
  await writeFile(join(source, "a", "node_modules", "x"), "x");
  await writeFile(join(source, "b", "out", "y"), "y");
  await writeFile(join(source, "one"), "1");
  execFileSync("ln", [join(source, "one"), join(source, "two")]);
  execFileSync("mkfifo", [join(source, "pipe")]);
  const server = createServer().listen(join(source, "socket"));
  t.after(() => server.close());
  await once(server, "listening");
  const frozen = await freezeFolder(store, source, { exclude: ["node_modules", "./b/out"] });
  assert.equal(frozen.skipped, 2);
  assert.equal(frozen.files, 2);
  await unpackSource(store, frozen.digest, join(folder, "out"));
  assert.deepEqual((await readdir(join(folder, "out"), { recursive: true })).sort(), [
    "a",
    "b",
    "one",
    "two",
  ]);
});

test("a file that grows, shrinks or is rewritten while it is read is refused", async (t) => {
  const folder = await temporaryFolder(t);
  const size = 600 << 10;
  const changes: Record<string, (path: string) => Promise<unknown>> = {
    grows: (path) => truncate(path, size + 1),
    shrinks: (path) => truncate(path, 1),
    "is rewritten": async (path) => {
      const handle = await open(path, "r+");
      await handle.write("changed", size - 10);
      await handle.close();
    },
  };
  for (const [name, change] of Object.entries(changes)) {
    const source = join(folder, name);
    await mkdir(source);
    await writeFile(join(source, "file"), Buffer.alloc(size));
    const read = async () => {
      for await (const entry of walkSource(source, []).entries) {
        assert.ok(entry.type === "file");
        let isFirst = true;
        for await (const _chunk of entry.content) {
          if (isFirst) await change(join(source, "file"));
          isFirst = false;
        }
      }
    };
    await assert.rejects(
      read(),
      (error) => error instanceof SourceChangedError && error.path === "file",
      name,
    );
  }
});

test("a folder swapped for a link during the walk is not followed", async (t) => {
  const folder = await temporaryFolder(t);
  const source = join(folder, "source");
  await mkdir(join(source, "a"), { recursive: true });
  await writeFile(join(source, "a", "x"), "x");
  await mkdir(join(folder, "secret"));
  await writeFile(join(folder, "secret", "x"), "secret");
  const walk = async () => {
    for await (const entry of walkSource(source, []).entries) {
      assert.notEqual(entry.type, "file");
      await rename(join(source, "a"), join(source, "b"));
      await symlink(join(folder, "secret"), join(source, "a"));
    }
  };
  await assert.rejects(walk(), SourceChangedError);
});

test("a failed freeze stores nothing", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  const source = join(folder, "source");
  await mkdir(source);
  await writeFile(join(source, "a"), Buffer.alloc(2 << 20));
  await symlink("/", join(source, "z"));
  await assert.rejects(freezeFolder(store, source), SymlinkEscapesError);
  assert.deepEqual(await readdir(join(store.folder, "blobs", "sha256")), []);
  assert.deepEqual(await readdir(join(store.folder, "tmp")), []);
});

test("archives that would write outside their folder are refused and leave nothing", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  await mkdir(join(folder, "outside"));
  const hostile: Record<string, Item[]> = {
    parent: [{ name: "../outside/x", body: "x" }],
    "parent inside": [{ name: "a/../../outside/x", body: "x" }],
    absolute: [{ name: `${folder}/outside/x`, body: "x" }],
    dot: [{ name: "./a", body: "x" }],
    "empty part": [{ name: "a//b", body: "x" }],
    "absolute link": [{ name: "l", type: "symlink", linkname: `${folder}/outside` }],
    "link upwards": [{ name: "l", type: "symlink", linkname: "../outside" }],
    "link through link": [
      { name: "d/here", type: "symlink", linkname: ".." },
      { name: "l", type: "symlink", linkname: "d/here/../outside" },
    ],
    "write through link": [
      { name: "d", type: "directory" },
      { name: "l", type: "symlink", linkname: "d" },
      { name: "l/x", body: "x" },
    ],
    "write over link": [
      { name: "l", type: "symlink", linkname: "x" },
      { name: "l", body: "x" },
    ],
    "file as folder": [
      { name: "f", body: "x" },
      { name: "f/x", body: "x" },
    ],
    twice: [
      { name: "f", body: "x" },
      { name: "f", body: "y" },
    ],
    "hard link": [{ name: "h", type: "link", linkname: "/etc/passwd" }],
    device: [{ name: "c", type: "character-device", devmajor: 1, devminor: 3 }],
    pipe: [{ name: "p", type: "fifo" }],
  };
  for (const [name, items] of Object.entries(hostile)) {
    const digest = await putTar(store, items);
    await assert.rejects(unpackSource(store, digest, join(folder, "out")), UnsafeArchiveError, name);
  }
  const noise = (await store.put(Buffer.alloc(4096, 7))).digest;
  await assert.rejects(unpackSource(store, noise, join(folder, "out")), UnsafeArchiveError);
  assert.deepEqual(await readdir(join(folder, "outside")), []);
  assert.deepEqual((await readdir(folder)).sort(), ["outside", "store"]);
});

test("an archive past its limits is refused, and a folder with content is not overwritten", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  const many = await putTar(
    store,
    Array.from({ length: 20 }, (_, at) => ({ name: `f${at}`, body: "0123456789" })),
  );
  const out = join(folder, "out");
  await assert.rejects(unpackSource(store, many, out, { maxEntries: 19 }), ArchiveTooLargeError);
  await assert.rejects(unpackSource(store, many, out, { maxBytes: 199 }), ArchiveTooLargeError);
  await unpackSource(store, many, out, { maxEntries: 20, maxBytes: 200 });
  await assert.rejects(unpackSource(store, many, out), { code: "ENOTEMPTY" });
});

test("an unpacked tree belongs to the owner asked for and carries only plain modes", async (t) => {
  if (process.getuid?.() !== 0) return t.skip("only root may give files away");
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(join(folder, "store"));
  const digest = await putTar(store, [
    { name: "d/run", mode: 0o4777, body: "x" },
    { name: "d/link", type: "symlink", linkname: "run" },
  ]);
  const out = join(folder, "out");
  await unpackSource(store, digest, out, { uid: 4242, gid: 4343 });
  for (const path of ["", "d", "d/run", "d/link"]) {
    const stats = await lstat(join(out, path));
    assert.deepEqual([stats.uid, stats.gid], [4242, 4343], path);
    if (!stats.isSymbolicLink()) assert.equal(stats.mode & 0o7777, 0o755, path);
  }
});

test("a large folder is frozen and unpacked in little memory", async (t) => {
  const folder = await temporaryFolder(t);
  const source = join(folder, "source");
  await mkdir(source);
  const file = createWriteStream(join(source, "large"));
  const chunk = Buffer.alloc(1 << 20, "x");
  for (let at = 0; at < 80; at++) if (!file.write(chunk)) await once(file, "drain");
  file.end();
  await once(file, "close");
  const code = `
    import { freezeFolder, openArtifactStore, unpackSource } from ${JSON.stringify(import.meta.resolve("./index.ts"))};
    const [folder] = process.argv.slice(1);
    const store = await openArtifactStore(folder + "/store");
    const before = process.memoryUsage().rss;
    let most = before;
    const timer = setInterval(() => (most = Math.max(most, process.memoryUsage().rss)), 5);
    const { digest } = await freezeFolder(store, folder + "/source");
    await unpackSource(store, digest, folder + "/out");
    clearInterval(timer);
    console.log(JSON.stringify({ grown: most - before, digest }));`;
  const output = execFileSync(process.execPath, ["--input-type=module", "-e", code, folder], {
    encoding: "utf8",
  });
  const { grown } = JSON.parse(output) as { grown: number };
  assert.ok(grown < 60 << 20, `grew by ${grown} bytes`);
  const hash = async (path: string) =>
    createHash("sha256")
      .update(await readFile(path))
      .digest("hex");
  assert.equal(await hash(join(folder, "out", "large")), await hash(join(source, "large")));
});

test("a refusal is told as it is also when the store begins to read after it", async (t) => {
  const root = await temporaryFolder(t);
  const store = await openArtifactStore(join(root, "store"));
  const source = join(root, "source");
  await mkdir(source);
  await symlink("/etc", join(source, "out"));
  const late: ArtifactStore = {
    ...store,
    put: async (content) => {
      for (let turn = 0; turn < 200; turn++) await lstat(source);
      return store.put(content);
    },
  };
  await assert.rejects(freezeFolder(late, source, { subfolder: "out" }), SymlinkEscapesError);
  await assert.rejects(freezeFolder(late, source), SymlinkEscapesError);
  assert.deepEqual(await readdir(join(root, "store", "blobs", "sha256")), []);
});

test("a store that fails before or while it reads ends the freeze with its own reason", async (t) => {
  const root = await temporaryFolder(t);
  const store = await openArtifactStore(join(root, "store"));
  const source = join(root, "source");
  await mkdir(source);
  for (const name of ["a", "b"]) await writeFile(join(source, name), Buffer.alloc(1 << 20));
  const full = Object.assign(new Error("no space left"), { code: "ENOSPC" });
  const deaf: ArtifactStore = { ...store, put: () => Promise.reject(full) };
  await assert.rejects(freezeFolder(deaf, source), full);
  const choked: ArtifactStore = {
    ...store,
    put: async (content) => {
      for await (const chunk of content as AsyncIterable<Uint8Array>) if (chunk.length > 0) throw full;
      throw new Error("nothing was read");
    },
  };
  await assert.rejects(freezeFolder(choked, source), full);
});
