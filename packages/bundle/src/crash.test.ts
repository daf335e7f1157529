import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { buildBundle, materializeStatic, openArtifactStore, unpackBundle } from "./index.ts";
import { temporaryFolder } from "./testing-folder.ts";

const declared = {
  kind: "static" as const,
  startCommand: null,
  port: null,
  healthCheckPath: null,
  env: [],
};

/** Runs code in a process of its own, waits until `reached`, then kills it as a power cut would. */
async function killWhen(t: TestContext, code: string, reached: () => Promise<boolean>): Promise<void> {
  const door = JSON.stringify(import.meta.resolve("./index.ts"));
  const child: ChildProcess = spawn(
    process.execPath,
    ["--input-type=module", "-e", `import * as bundle from ${door};\n${code}`],
    { stdio: ["ignore", "ignore", "inherit"] },
  );
  t.after(() => child.kill("SIGKILL"));
  const gone = once(child, "exit");
  while (!(await reached())) {
    assert.equal(child.exitCode, null, "the process ended before it could be killed");
    await new Promise((resolve) => setImmediate(resolve));
  }
  child.kill("SIGKILL");
  await gone;
  assert.equal(child.signalCode, "SIGKILL");
}

const namesIn = (folder: string) => readdir(folder).catch(() => [] as string[]);

test("a process killed during a put leaves no blob, and the next start removes its remains", async (t) => {
  const folder = await temporaryFolder(t);
  const code = `
    const store = await bundle.openArtifactStore(${JSON.stringify(folder)});
    await store.put((async function* () { for (;;) yield Buffer.alloc(1 << 16); })());`;
  const halfWritten = async () => {
    for (const name of await namesIn(join(folder, "tmp")))
      if ((await stat(join(folder, "tmp", name)).catch(() => null))?.size) return true;
    return false;
  };
  await killWhen(t, code, halfWritten);
  assert.equal(await halfWritten(), true);
  const store = await openArtifactStore(folder);
  assert.deepEqual(await readdir(join(folder, "blobs", "sha256")), []);
  assert.deepEqual(await readdir(join(folder, "tmp")), []);
  assert.equal((await store.put(Buffer.from("next"))).sizeBytes, 4);
});

test("opening a store spares what a living process is writing", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(folder);
  let wake = () => {};
  const woken = new Promise<void>((resolve) => (wake = resolve));
  const putting = store.put(
    (async function* () {
      yield Buffer.from("a");
      await woken;
      yield Buffer.from("b");
    })(),
  );
  await openArtifactStore(folder);
  wake();
  assert.equal(await store.has((await putting).digest), true);
});

test("a process killed while it unpacks leaves nothing visible, and the next unpack cleans up", async (t) => {
  const folder = await temporaryFolder(t);
  const source = join(folder, "source");
  await mkdir(source);
  for (let at = 0; at < 400; at++) await writeFile(join(source, `file-${at}`), Buffer.alloc(50_000, at));
  const store = await openArtifactStore(join(folder, "store"));
  const { digest } = await buildBundle(store, source, declared);
  const [place, into] = [JSON.stringify(store.folder), JSON.stringify(join(folder, "run", "out"))];
  await mkdir(join(folder, "run"));

  const open = `const store = await bundle.openArtifactStore(${place});`;
  const unpacking = async () => {
    const [name] = await namesIn(join(folder, "run"));
    return name !== undefined && (await namesIn(join(folder, "run", name))).length > 3;
  };
  await killWhen(t, `${open} await bundle.unpackBundle(store, "${digest}", ${into});`, unpacking);
  assert.equal((await namesIn(join(folder, "run"))).includes("out"), false);
  await unpackBundle(store, digest, join(folder, "run", "out"));
  assert.deepEqual(await readdir(join(folder, "run")), ["out"]);

  const materializing = async () => {
    const [name] = await namesIn(join(store.folder, "tmp"));
    return name !== undefined && (await namesIn(join(store.folder, "tmp", name, "files"))).length > 3;
  };
  await killWhen(t, `${open} await bundle.materializeStatic(store, "${digest}");`, materializing);
  assert.deepEqual(await readdir(join(store.folder, "static")), []);
  const again = await openArtifactStore(store.folder);
  assert.deepEqual(await readdir(join(store.folder, "tmp")), []);
  assert.equal((await readdir((await materializeStatic(again, digest)).folder)).length, 400);
});
