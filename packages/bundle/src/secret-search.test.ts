import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { brotliCompressSync, gzipSync, zstdCompressSync } from "node:zlib";
import { buildBundle, freezeFolder, openArtifactStore, SecretFoundError, SecretSearch } from "./index.ts";
import { temporaryFolder } from "./testing-folder.ts";

const value = 'p@ss/"wört" 4711+=';
const name = "DB_PASSWORD";

function search(text: string | Buffer, values = [{ name, value }], chunkBytes = Infinity) {
  const found = new SecretSearch(values);
  const look = found.file("app.js");
  const bytes = Buffer.from(text as string);
  for (let at = 0; at < bytes.length; at += Math.min(chunkBytes, bytes.length))
    look(bytes.subarray(at, at + chunkBytes));
  return found.findings;
}

const encoded: Record<string, string> = {
  plain: value,
  url: encodeURIComponent(value),
  "url, small letters": encodeURIComponent(value).replace(/%../g, (hex) => hex.toLowerCase()),
  "a form": new URLSearchParams({ v: value }).toString(),
  json: JSON.stringify({ value }),
  hex: Buffer.from(value).toString("hex"),
  "hex, capitals": Buffer.from(value).toString("hex").toUpperCase(),
  "base64, first alignment": Buffer.from(`abc${value}xyz`).toString("base64"),
  "base64, second alignment": Buffer.from(`abcd${value}xy`).toString("base64"),
  "base64, third alignment": Buffer.from(`abcde${value}x`).toString("base64"),
  "a source map": JSON.stringify(JSON.stringify({ value })),
  html: `<p>p@ss/&quot;wört&quot; 4711+=</p>`,
  base64url: Buffer.from(`?${value}`).toString("base64url"),
};

for (const [how, text] of Object.entries(encoded)) {
  test(`a secret is found as ${how}, with its line, and not shown`, () => {
    const findings = search(`one\ntwo\nconst key = "${text}";\nfour\n`);
    assert.deepEqual(
      findings.map(({ file, line, name }) => ({ file, line, name })),
      [{ file: "app.js", line: 3, name }],
    );
    assert.match(findings[0]!.excerpt, /^const key = ".*\[DB_PASSWORD\]$/);
    assert.ok(!JSON.stringify(findings).includes(text.slice(4, 12)));
  });
}

test("every place of a secret in random bytes is found, however the file is cut into chunks", () => {
  for (let round = 0; round < 60; round++) {
    const at = Math.floor(Math.random() * 300);
    const bytes = Buffer.concat([randomBytes(at), Buffer.from(value), randomBytes(300 - at)]);
    for (const chunk of [1, 7, 64, 299, Infinity])
      assert.equal(search(bytes, undefined, chunk).length, 1, `at ${at}, chunks of ${chunk}`);
  }
});

test("a long value is found by its middle, a short one is not looked for", () => {
  const long = randomBytes(3000).toString("base64");
  assert.equal(search(`x${long}y`, [{ name, value: long }]).length, 1);
  assert.deepEqual(search("1234567", [{ name, value: "1234567" }]), []);
});

test("a secret is found in UTF-16, of either order", () => {
  for (const wide of [
    Buffer.from(`x=${value}\n`, "utf16le"),
    Buffer.from(`x=${value}\n`, "utf16le").swap16(),
  ])
    assert.deepEqual(
      search(wide, undefined, 7).map((one) => one.encoding),
      ["utf-16"],
    );
});

const compressors = {
  "app.js.gz": gzipSync,
  "app.js.br": brotliCompressSync,
  "app.js.zst": zstdCompressSync,
};
for (const [file, compress] of Object.entries(compressors)) {
  test(`a secret inside ${file} refuses the bundle, with the line of the unpacked text`, async (t) => {
    const folder = await temporaryFolder(t);
    const store = await openArtifactStore(await temporaryFolder(t));
    const padding = randomBytes(300_000).toString("base64");
    await writeFile(join(folder, file), compress(Buffer.from(`${padding}\n\nconst key = "${value}";\n`)));
    // What only has the name, or is torn, is packed as it is.
    await writeFile(join(folder, `plain-${file}`), "not compressed");
    await writeFile(join(folder, `torn-${file}`), compress(Buffer.from(padding)).subarray(0, 1000));
    await assert.rejects(
      freezeFolder(store, folder, { search: new SecretSearch([{ name, value }]) }),
      (error) => {
        assert.ok(error instanceof SecretFoundError);
        const [finding] = error.details.findings;
        assert.deepEqual([finding?.file, finding?.line, finding?.name], [file, 3, name]);
        return true;
      },
    );
    await freezeFolder(store, folder, { search: new SecretSearch([{ name, value: "another secret" }]) });
  });
}

test("a file that unpacks to more than can be looked at is packed all the same", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(await temporaryFolder(t));
  await writeFile(join(folder, "bomb.gz"), gzipSync(Buffer.alloc(300 * 1024 * 1024)));
  const { files } = await freezeFolder(store, folder, { search: new SecretSearch([{ name, value }]) });
  assert.equal(files, 1);
});

test("a bundle with a secret in it is refused and leaves nothing in the store", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(await temporaryFolder(t));
  await writeFile(join(folder, "settings.py"), `\n\nPASSWORD = "${value}"\n`);
  const declared = {
    kind: "dynamic",
    startCommand: "python3 app.py",
    port: 3000,
    healthCheckPath: "/",
    env: [],
  };
  const options = { ...declared, kind: "dynamic" as const, search: new SecretSearch([{ name, value }]) };
  await assert.rejects(buildBundle(store, folder, options), (error) => {
    assert.ok(error instanceof SecretFoundError);
    assert.equal(error.message, "settings.py:3 holds the value of DB_PASSWORD.");
    return true;
  });
  assert.deepEqual(await readdir(join(store.folder, "blobs", "sha256")), []);
  assert.deepEqual(await readdir(join(store.folder, "tmp")), []);
});

test("a secret in the start command refuses the bundle as well", async (t) => {
  const folder = await temporaryFolder(t);
  const store = await openArtifactStore(await temporaryFolder(t));
  await writeFile(join(folder, "a"), "");
  const secret = "0123456789abcdef";
  await assert.rejects(
    buildBundle(store, folder, {
      ...{ kind: "dynamic" as const, startCommand: `KEY=${secret} node .`, port: 1, healthCheckPath: "/" },
      ...{ env: [], search: new SecretSearch([{ name, value: secret }]) },
    }),
    SecretFoundError,
  );
});
