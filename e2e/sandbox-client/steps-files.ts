import assert from "node:assert/strict";
import { FileNotFoundError, FilesystemEventType, type FilesystemEvent } from "e2b";
import { failure, until, type Step } from "./step.ts";

export const fileSteps: readonly Step[] = [
  {
    name: "files are written and read as text, bytes and streams",
    isLean: true,
    run: async ({ sandbox }) => {
      const { files } = sandbox;
      const written = await files.write("notes/a.txt", "text");
      assert.equal(written.path, "/home/user/notes/a.txt");
      assert.equal(await files.read("notes/a.txt"), "text");
      const bytes = Uint8Array.from({ length: 300_000 }, (_, at) => (at * 31) % 256);
      await files.write("/tmp/bytes.bin", bytes.buffer);
      assert.deepEqual(await files.read("/tmp/bytes.bin", { format: "bytes" }), bytes);
      await files.write([
        { path: "many/1.txt", data: "1" },
        { path: "many/2.txt", data: new Blob(["2"]) },
      ]);
      assert.equal(await files.read("many/2.txt"), "2");
      let streamed = "";
      for await (const part of await files.read("notes/a.txt", { format: "stream" }))
        streamed += new TextDecoder().decode(part as Uint8Array);
      assert.equal(streamed, "text");
      await files.write("zipped.txt", "z".repeat(50_000), { gzip: true });
      assert.equal(await files.read("zipped.txt", { gzip: true }), "z".repeat(50_000));
      assert.ok((await failure(files.read("nowhere.txt"))) instanceof FileNotFoundError);
    },
  },
  {
    name: "folders are made, listed, renamed and removed",
    run: async ({ sandbox }) => {
      const { files } = sandbox;
      assert.equal(await files.makeDir("tree/inner"), true);
      assert.equal(await files.makeDir("tree/inner"), false);
      await files.write("tree/inner/leaf.txt", "leaf");
      const listed = await files.list("tree", { depth: 2 });
      assert.deepEqual(
        listed.map(({ path, type }) => [path, type]),
        [
          ["/home/user/tree/inner", "dir"],
          ["/home/user/tree/inner/leaf.txt", "file"],
        ],
      );
      const renamed = await files.rename("tree/inner/leaf.txt", "tree/moved.txt");
      assert.deepEqual([renamed.path, renamed.size], ["/home/user/tree/moved.txt", 4]);
      const info = await files.getInfo("tree/moved.txt");
      assert.deepEqual([info.owner, info.permissions], ["user", "-rw-r--r--"]);
      await files.remove("tree");
      assert.equal(await files.exists("tree"), false);
    },
  },
  {
    name: "a watch of a tree reports what is written and removed in it",
    run: async ({ sandbox }) => {
      const { files } = sandbox;
      await files.makeDir("watched/below");
      const events: FilesystemEvent[] = [];
      const watch = await files.watchDir("watched", (event) => void events.push(event), { recursive: true });
      const has = (type: FilesystemEventType, name: string) => () =>
        events.some((event) => event.type === type && event.name === name);
      await files.write("watched/below/new.txt", "1");
      await until("the write", has(FilesystemEventType.WRITE, "below/new.txt"));
      await files.remove("watched/below/new.txt");
      await until("the removal", has(FilesystemEventType.REMOVE, "below/new.txt"));
      await watch.stop();
      assert.ok(!events.some(({ name }) => name.includes(".upload")), JSON.stringify(events));
    },
  },
  {
    name: "metadata is kept with a file, and a watch can tell what a file is",
    run: async ({ sandbox }) => {
      const { files } = sandbox;
      const events: FilesystemEvent[] = [];
      await files.makeDir("noted");
      const watch = await files.watchDir("noted", (event) => void events.push(event), { includeEntry: true });
      const written = await files.write("noted/a.txt", "1", { metadata: { author: "ann" } });
      assert.deepEqual(written.metadata, { author: "ann" });
      const renamed = await files.rename("noted/a.txt", "noted/b.txt");
      assert.deepEqual(renamed.metadata, { author: "ann" });
      await files.write("noted/b.txt", "2");
      assert.equal((await files.getInfo("noted/b.txt")).metadata, undefined);
      await until("an entry", () => events.some((event) => event.entry?.path === "/home/user/noted/b.txt"));
      await watch.stop();
    },
  },
  {
    name: "a signed address gives one file to anybody, for a time, and nothing else",
    isLean: true,
    run: async ({ sandbox }) => {
      await sandbox.files.write("shared.txt", "shared");
      const download = await sandbox.downloadUrl("shared.txt", { useSignatureExpiration: 60 });
      const got = await fetch(download);
      assert.deepEqual([got.status, await got.text()], [200, "shared"]);
      const upload = await sandbox.uploadUrl("put.txt", { useSignatureExpiration: 60 });
      const form = new FormData();
      form.append("file", new Blob(["put"]), "put.txt");
      assert.equal((await fetch(upload, { method: "POST", body: form })).status, 200);
      assert.equal(await sandbox.files.read("put.txt"), "put");
      const refused = [
        download.replace("shared.txt", "put.txt"),
        download.replace(/signature=[^&]+/, "signature=v1_AAAA"),
        download.split("&signature")[0]!,
        upload.replace("put.txt", "other.txt"),
        await sandbox.downloadUrl("shared.txt", { useSignatureExpiration: -5 }),
      ];
      for (const url of refused) assert.equal((await fetch(url)).status, 401, url);
      assert.equal((await fetch(download, { method: "POST", body: form })).status, 401);
    },
  },
];
