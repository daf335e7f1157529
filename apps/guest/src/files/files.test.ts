import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { chmod, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { Code, ConnectError } from "@connectrpc/connect";
import { waitFor } from "@platform/daemon";
import { EventType, FileType, GuestError } from "@platform/guest-protocol";
import { startAgent, type TestAgent } from "../test-agent.ts";
import { FileMetadata } from "./metadata.ts";

function call(
  agent: TestAgent,
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body: string | Buffer = "",
) {
  return new Promise<{ status: number; body: string }>((resolve, reject) => {
    const sent = request({ socketPath: agent.socketPath, method, path, headers }, (response) => {
      text(response).then((answer) => resolve({ status: response.statusCode ?? 0, body: answer }), reject);
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

test("a stream of 64 MiB goes in and comes out unchanged, and no temporary file stays", async (t) => {
  const { client, home } = await startAgent(t);
  const block = randomBytes(1024 * 1024);
  const sent = createHash("sha256");
  const source = function* () {
    for (let count = 0; count < 64; count += 1) {
      sent.update(block);
      yield block;
    }
  };
  await client.writeFile("deep/folder/big.bin", Readable.from(source()));
  const received = createHash("sha256");
  for await (const chunk of await client.readFile(join(home, "deep/folder/big.bin"))) received.update(chunk);
  assert.equal(received.digest("hex"), sent.digest("hex"));
  assert.deepEqual(await readdir(join(home, "deep/folder")), ["big.bin"]);
});

test("an upload that breaks off leaves the old file", async (t) => {
  const { client, home } = await startAgent(t);
  await client.writeFile("kept.txt", "old");
  const broken = function* () {
    yield "new";
    throw new Error("source failed");
  };
  await assert.rejects(client.writeFile("kept.txt", Readable.from(broken())));
  await waitFor("the temporary file's removal", async () => (await readdir(home)).length === 1, 5000);
  assert.equal(await readFile(join(home, "kept.txt"), "utf8"), "old");
});

test("an upload keeps the mode of the file and follows links", async (t) => {
  const { client, home } = await startAgent(t);
  await writeFile(join(home, "run.sh"), "old");
  await chmod(join(home, "run.sh"), 0o755);
  await symlink("run.sh", join(home, "link"));
  await client.writeFile("link", "new");
  assert.equal(await readFile(join(home, "run.sh"), "utf8"), "new");
  assert.equal((await stat(join(home, "run.sh"))).mode & 0o777, 0o755);
  const { entry } = await client.filesystem.stat({ path: "link" });
  assert.deepEqual([entry?.type, entry?.symlinkTarget], [FileType.FILE, join(home, "run.sh")]);
});

test("a part that cannot be stored is refused, whatever its size and however soon that shows", async (t) => {
  const agent = await startAgent(t);
  const headers = { "content-type": "multipart/form-data; boundary=b" };
  const part = (disposition: string, content: string) =>
    `--b\r\nContent-Disposition: form-data; name="file"${disposition}\r\n\r\n${content}\r\n`;
  await agent.client.writeFile("file.txt", "a file");
  const large = "x".repeat(3 * 1024 * 1024);
  // Below a file there is no folder, the kernel takes no file here, and a null character is in no name.
  for (const disposition of [
    '; filename="file.txt/below"',
    '; filename="/proc/new"',
    '; filename="a\u0000b"',
  ]) {
    const body = `${part(disposition, large)}${part('; filename="next.txt"', "next")}--b--\r\n`;
    const answer = await call(agent, "POST", "/files", headers, body);
    assert.ok(answer.status >= 400 && answer.status < 500, `${disposition}: ${answer.status} ${answer.body}`);
  }
  assert.equal((await call(agent, "GET", "/files?path=file.txt")).body, "a file");
});

test("a multipart upload stores each part named file", async (t) => {
  const agent = await startAgent(t);
  const part = (name: string, content: string) =>
    `--b\r\ncontent-disposition: form-data; name="file"; filename="${name}"\r\n\r\n${content}\r\n`;
  const body = `${part("one.txt", "1")}${part("sub/two.txt", "2")}--b--\r\n`;
  const headers = { "content-type": "multipart/form-data; boundary=b" };
  const answer = await call(agent, "POST", "/files?username=user", headers, body);
  assert.equal(answer.status, 200);
  assert.deepEqual(JSON.parse(answer.body), [
    { name: "one.txt", path: join(agent.home, "one.txt"), type: "file" },
    { name: "two.txt", path: join(agent.home, "sub/two.txt"), type: "file" },
  ]);
  assert.equal(await readFile(join(agent.home, "sub/two.txt"), "utf8"), "2");
  assert.equal((await call(agent, "POST", "/files", headers, "--b\r\ngarbage")).status, 400);
});

test("what an upload notes about a file stays with it until the next upload", async (t) => {
  const agent = await startAgent(t);
  const { filesystem } = agent.client;
  const noted = {
    "content-type": "application/octet-stream",
    "x-metadata-author": "ann",
    "x-metadata-N": "1",
  };
  const answer = await call(agent, "POST", "/files?path=a.txt", noted, "1");
  assert.deepEqual(JSON.parse(answer.body), [
    { name: "a.txt", path: join(agent.home, "a.txt"), type: "file", metadata: { author: "ann", n: "1" } },
  ]);
  const of = async (path: string) => (await filesystem.stat({ path })).entry?.metadata;
  assert.deepEqual(await of("a.txt"), { author: "ann", n: "1" });
  await rename(join(agent.home, "a.txt"), join(agent.home, "b.txt"));
  assert.deepEqual(await of("b.txt"), { author: "ann", n: "1" });
  const copy = new FileMetadata(agent.home);
  assert.deepEqual(await copy.of("b.txt", await stat(join(agent.home, "b.txt"))), { author: "ann", n: "1" });
  await agent.client.writeFile("a.txt", "another file of the old name");
  assert.deepEqual(await of("a.txt"), {});
  await agent.client.writeFile("b.txt", "2");
  assert.deepEqual(await of("b.txt"), {});
  const long = { ...noted, "x-metadata-long": "x".repeat(4096) };
  assert.equal((await call(agent, "POST", "/files?path=a.txt", long, "1")).status, 400);
});

test("a link that leads in a circle and a body that is no gzip are refused as what they are", async (t) => {
  const agent = await startAgent(t);
  await symlink("b", join(agent.home, "a"));
  await symlink("a", join(agent.home, "b"));
  for (const look of [
    agent.client.filesystem.listDir({ path: "a", depth: 1 }),
    agent.client.filesystem.listDir({ path: "a/deep", depth: 2 }),
  ])
    await assert.rejects(look, (error: unknown) => {
      assert.ok(error instanceof ConnectError);
      assert.equal(error.code, Code.InvalidArgument);
      assert.match(error.rawMessage, /circle/);
      return true;
    });
  const gzip = { "content-type": "application/octet-stream", "content-encoding": "gzip" };
  const cut = gzipSync("x".repeat(10_000)).subarray(0, 20).toString("latin1");
  for (const [body, said] of [
    ["this is no gzip", /no gzip/],
    [Buffer.from(cut, "latin1"), /ends early/],
  ] as const) {
    const answer = await call(agent, "POST", "/files?path=new.txt", gzip, body);
    assert.equal(answer.status, 400, answer.body);
    assert.match(answer.body, said);
  }
  assert.deepEqual((await readdir(agent.home)).sort(), ["a", "b"]);
});

test("files are composed in order and the parts removed", async (t) => {
  const agent = await startAgent(t);
  for (const name of ["a", "b"]) await agent.client.writeFile(name, name.repeat(3));
  const json = { "content-type": "application/json" };
  const body = JSON.stringify({ source_paths: ["b", "a"], destination: "out/ba" });
  assert.equal((await call(agent, "POST", "/files/compose", json, body)).status, 200);
  assert.equal(await readFile(join(agent.home, "out/ba"), "utf8"), "bbbaaa");
  assert.deepEqual(await readdir(agent.home), ["out"]);
  assert.equal((await call(agent, "POST", "/files/compose", json, body)).status, 404);
});

test("broken paths and users are refused in the protocol's form", async (t) => {
  const agent = await startAgent(t);
  await agent.client.writeFile("plain", "x");
  const missing = await call(agent, "GET", "/files?path=nothing");
  assert.equal(missing.status, 404);
  const message = `path '${join(agent.home, "nothing")}' does not exist`;
  assert.deepEqual(JSON.parse(missing.body), { code: 404, message });
  assert.equal((await call(agent, "GET", "/files?path=/tmp")).status, 400);
  assert.equal((await call(agent, "GET", "/files")).status, 400);
  assert.equal((await call(agent, "GET", "/files?path=a%00b")).status, 400);
  assert.equal((await call(agent, "POST", "/files?path=plain/below")).status, 400);
  assert.equal((await call(agent, "GET", "/files?path=plain&username=nobody")).status, 401);
  const authorization = `Basic ${Buffer.from("root:").toString("base64")}`;
  assert.equal((await call(agent, "GET", "/files?path=plain", { authorization })).status, 200);
  await assert.rejects(
    agent.client.readFile("nothing"),
    (error) => error instanceof GuestError && error.status === 404,
  );
});

test("a path below a folder that takes no files is refused, however often, and costs no thread", async (t) => {
  const { client } = await startAgent(t);
  // More than the agent has threads for file work.
  const tries = Array.from({ length: 8 }, (_, n) => client.writeFile(`/proc/none${n}/deep/a`, "x"));
  for (const result of await Promise.allSettled(tries)) {
    assert.equal(result.status, "rejected");
    assert.ok(result.reason instanceof GuestError && result.reason.status < 500, String(result.reason));
  }
  await client.writeFile("after", "still works");
});

test("folders are made, listed by depth, moved and removed", async (t) => {
  const { filesystem } = (await startAgent(t)).client;
  await filesystem.makeDir({ path: "a/b/c" });
  const listed = await filesystem.listDir({ path: "a", depth: 2 });
  assert.deepEqual(
    listed.entries.map((entry) => [entry.name, entry.type, entry.permissions]),
    [
      ["b", FileType.DIRECTORY, "drwxr-xr-x"],
      ["c", FileType.DIRECTORY, "drwxr-xr-x"],
    ],
  );
  assert.equal((await filesystem.listDir({ path: "a" })).entries.length, 1);
  await filesystem.move({ source: "a/b", destination: "new/parent/b" });
  assert.equal((await filesystem.stat({ path: "new/parent/b/c" })).entry?.name, "c");
  await filesystem.remove({ path: "new" });
  const codeOf = (promise: Promise<unknown>) =>
    promise.then(
      () => null,
      (error: unknown) => ConnectError.from(error).code,
    );
  assert.equal(await codeOf(filesystem.stat({ path: "new" })), Code.NotFound);
  assert.equal(await codeOf(filesystem.makeDir({ path: "a" })), Code.AlreadyExists);
  assert.equal(await codeOf(filesystem.move({ source: "x", destination: "y" })), Code.NotFound);
  assert.equal(await codeOf(filesystem.listDir({ path: "x" })), Code.NotFound);
});

test("a recursive watch reports what happens, also in folders made later", async (t) => {
  const { client, home } = await startAgent(t);
  const { watcherId } = await client.filesystem.createWatcher({ path: "~", recursive: true });
  const seen: string[] = [];
  const expectEvent = (wanted: string) =>
    waitFor(
      wanted,
      async () => {
        const { events } = await client.filesystem.getWatcherEvents({ watcherId });
        seen.push(...events.map((event) => `${EventType[event.type]} ${event.name}`));
        return seen.includes(wanted);
      },
      5000,
      5,
    );
  await mkdir(join(home, "sub"));
  await expectEvent("CREATE sub");
  await writeFile(join(home, "sub/file"), "one");
  await expectEvent("CREATE sub/file");
  await expectEvent("WRITE sub/file");
  await chmod(join(home, "sub/file"), 0o600);
  await expectEvent("CHMOD sub/file");
  await rename(join(home, "sub/file"), join(home, "moved"));
  await expectEvent("RENAME sub/file");
  await expectEvent("CREATE moved");
  await rm(join(home, "moved"));
  await expectEvent("REMOVE moved");
  await client.filesystem.removeWatcher({ watcherId });
  await assert.rejects(client.filesystem.getWatcherEvents({ watcherId }), /not found/);
});

test("a watch sees an upload as one file that is written", async (t) => {
  const { client, home } = await startAgent(t);
  await writeFile(join(home, "old.txt"), "old");
  const { watcherId } = await client.filesystem.createWatcher({ path: home });
  const seen: string[] = [];
  const seenAll = (wanted: readonly string[]) =>
    waitFor(
      wanted.join(", "),
      async () => {
        const { events } = await client.filesystem.getWatcherEvents({ watcherId });
        seen.push(...events.map((event) => `${EventType[event.type]} ${event.name}`));
        return wanted.every((event) => seen.includes(event));
      },
      5000,
      5,
    );
  await client.writeFile("new.txt", "1");
  await seenAll(["CREATE new.txt", "WRITE new.txt"]);
  await client.writeFile("old.txt", "2");
  await seenAll(["WRITE old.txt"]);
  assert.deepEqual(seen, ["CREATE new.txt", "WRITE new.txt", "WRITE old.txt"]);
});

test("a watch stream starts, reports and includes the entry on request", async (t) => {
  const { client, home } = await startAgent(t);
  for await (const { event } of client.filesystem.watchDir({ path: home, includeEntry: true })) {
    if (event.case === "start") await writeFile(join(home, "new.txt"), "x");
    if (event.case !== "filesystem") continue;
    assert.equal(event.value.name, "new.txt");
    assert.equal(event.value.entry?.path, join(home, "new.txt"));
    break;
  }
});
