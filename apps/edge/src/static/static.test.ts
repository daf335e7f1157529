import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from "node:zlib";
import { buildBundle, openArtifactStore } from "@platform/bundle";
import { createLog, waitFor } from "@platform/daemon";
import { Rig } from "../testing/rig.ts";
import { acceptedEncodings, Encodings } from "./encodings.ts";
import { isContentHashed, parseRange } from "./file-headers.ts";
import { HotFiles } from "./hot-files.ts";

const files: Record<string, string> = {
  "index.html": "<h1>home</h1>",
  "docs/index.html": "<h1>docs</h1>",
  "assets/app-4f3a9c1b.js": "export {};",
  "plain.js": "0123456789",
  "empty.txt": "",
  ".well-known/x.json": "{}",
  ".env": "SECRET=1",
  "long.css": "body { color: teal; }\n".repeat(200),
};

let rig: Rig;
before(async () => {
  rig = await Rig.start();
  const store = await openArtifactStore(join(rig.folder, "artifacts"));
  const build = async (content: Record<string, string>) => {
    const folder = await mkdtemp(join(tmpdir(), "edge-static-"));
    try {
      for (const [path, text] of Object.entries(content)) {
        await mkdir(dirname(join(folder, path)), { recursive: true });
        await writeFile(join(folder, path), text);
      }
      const declaration = { kind: "static" as const, startCommand: null, port: null, healthCheckPath: null };
      return (await buildBundle(store, folder, { ...declaration, env: [] })).digest;
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  };
  const plain = await build(files);
  const own404 = await build({ "index.html": "home", "404.html": "own 404" });
  await rig.publish({
    "site.clinic.test": { type: "static", digest: plain, spaFallback: false },
    "spa.clinic.test": { type: "static", digest: plain, spaFallback: true },
    "own.clinic.test": { type: "static", digest: own404, spaFallback: false },
    "lost.clinic.test": { type: "static", digest: `sha256:${"0".repeat(64)}`, spaFallback: false },
  });
});
after(() => rig.stop());

const get = (path: string, headers: Record<string, string> = {}, method = "GET") =>
  rig.fetch("site.clinic.test", path, { headers, method });

test("files have a type, a strong tag and the caching that their name allows", async () => {
  const home = await get("/");
  assert.equal(home.body, files["index.html"]);
  assert.equal(home.headers["content-type"], "text/html; charset=utf-8");
  assert.equal(home.headers["cache-control"], "no-cache");
  assert.match(home.headers.etag!, /^"[0-9a-f]{64}"$/);
  const hashed = await get("/assets/app-4f3a9c1b.js?v=1");
  assert.match(hashed.headers["cache-control"]!, /immutable/);
  assert.match(hashed.headers["content-type"]!, /^text\/javascript; charset=utf-8/);
  const same = await get("/", { "if-none-match": `"x", W/${home.headers.etag}` });
  assert.equal(same.status, 304);
  assert.equal(same.body, "");
  const head = await get("/plain.js", {}, "HEAD");
  assert.equal(head.headers["content-length"], "10");
  assert.equal(head.body, "");
  assert.equal((await get("/empty.txt")).status, 200);
});

test("ranges are served, and those beyond the end refused", async () => {
  const part = await get("/plain.js", { range: "bytes=2-4" });
  assert.equal(part.status, 206);
  assert.equal(part.body, "234");
  assert.equal(part.headers["content-range"], "bytes 2-4/10");
  assert.equal((await get("/plain.js", { range: "bytes=-3" })).body, "789");
  const beyond = await get("/plain.js", { range: "bytes=10-" });
  assert.equal(beyond.status, 416);
  assert.equal(beyond.headers["content-range"], "bytes */10");
  assert.equal((await get("/plain.js", { range: "bytes=0-1", "if-range": '"old"' })).body, files["plain.js"]);
  assert.equal(parseRange("bytes=0-1,3-4", 10), null);
});

test("a folder is its index page, below a slash", async () => {
  assert.equal((await get("/docs/")).body, files["docs/index.html"]);
  const redirect = await get("/docs?a=1");
  assert.equal(redirect.status, 301);
  assert.equal(redirect.headers.location, "/docs/?a=1");
});

test("tricks with paths, hidden files and folders without index reach nothing", async () => {
  for (const path of [
    "/../index.html",
    "/%2e%2e/index.html",
    "/docs/%2e%2e/plain.js",
    "/docs%2findex.html",
    "/docs%5cindex.html",
    "/plain.js%00",
    "//docs",
    "/%zz",
    "/.env",
    "/assets/",
    "/index.html/",
  ]) {
    const answer = await get(path);
    assert.ok([400, 404].includes(answer.status), `${path}: ${answer.status}`);
  }
  assert.equal((await get("/.well-known/x.json")).status, 200);
});

test("what is not there is a clean 404, the app's own page if it has one, index.html for a single-page app", async () => {
  const html = { accept: "text/html" };
  assert.equal((await get("/nothing", html)).status, 404);
  const own = await rig.fetch("own.clinic.test", "/nothing", { headers: html });
  assert.equal(own.status, 404);
  assert.equal(own.body, "own 404");
  const spa = (path: string, headers: Record<string, string>) =>
    rig.fetch("spa.clinic.test", path, { headers });
  assert.equal((await spa("/deep/link", html)).body, files["index.html"]);
  assert.equal((await spa("/missing.js", html)).status, 404);
  assert.equal((await spa("/api/data", { accept: "application/json" })).status, 404);
});

test("other methods are refused with Allow, and a lost bundle is an error page", async () => {
  const post = await get("/", {}, "POST");
  assert.equal(post.status, 405);
  assert.equal(post.headers.allow, "GET, HEAD");
  assert.equal((await rig.fetch("lost.clinic.test")).status, 502);
});

test("only a name with a real hash is cached for ever", () => {
  for (const name of ["app-4f3a9c1b.js", "index-BxY3k_9Z.js", "main.0a1b2c3d4e5f.css"]) {
    assert.ok(isContentHashed(name), name);
  }
  for (const name of ["app-settings.js", "report-20240101.js", "index.js", "my-document.pdf"]) {
    assert.ok(!isContentHashed(name), name);
  }
});

const decoders = { br: brotliDecompressSync, zstd: zstdDecompressSync, gzip: gunzipSync };

test("text is encoded once and then served as the client likes it, each form with a tag of its own", async () => {
  const plain = await get("/long.css");
  assert.equal(plain.headers.vary, "accept-encoding");
  const tags = new Set([plain.headers.etag]);
  for (const [encoding, decode] of Object.entries(decoders)) {
    const headers = { "accept-encoding": encoding };
    const encoded = await waitFor(
      encoding,
      async () => {
        const answer = await get("/long.css", headers);
        return answer.headers["content-encoding"] === encoding && answer;
      },
      30_000,
    );
    assert.equal(decode(encoded.bytes).toString(), files["long.css"]);
    assert.equal(encoded.headers["content-length"], String(encoded.bytes.length));
    assert.equal(encoded.headers.vary, "accept-encoding");
    tags.add(encoded.headers.etag);
    const fresh = await get("/long.css", { ...headers, "if-none-match": encoded.headers.etag! });
    assert.equal(fresh.status, 304);
    assert.equal(fresh.headers.etag, encoded.headers.etag);
    const other = await get("/long.css", { ...headers, "if-none-match": plain.headers.etag! });
    assert.equal(other.status, 200, "the tag of another form is another tag");
    const head = await get("/long.css", headers, "HEAD");
    assert.equal(head.headers["content-length"], encoded.headers["content-length"]);
  }
  assert.equal(tags.size, 4);
  const part = await get("/long.css", { "accept-encoding": "br", range: "bytes=0-3" });
  assert.equal(part.body, "body");
  assert.equal(part.headers["content-encoding"], undefined);
});

test("dates of a release mean nothing: conditions by date are answered with the whole file", async () => {
  const date = new Date(Date.now() + 86_400_000).toUTCString();
  const answer = await get("/plain.js", { "if-modified-since": date });
  assert.equal(answer.status, 200);
  assert.equal(answer.headers["last-modified"], undefined);
  const range = await get("/plain.js", { range: "bytes=0-1", "if-range": date });
  assert.equal(range.status, 200);
  const several = await get("/plain.js", { range: "bytes=0-1,4-5" });
  assert.equal(several.status, 200);
  assert.equal(several.body, files["plain.js"]);
});

test("an Accept-Encoding is read with its weights", () => {
  assert.deepEqual(acceptedEncodings("gzip, deflate, br, zstd"), ["br", "zstd", "gzip"]);
  assert.deepEqual(acceptedEncodings("gzip;q=1, br;q=0.5"), ["gzip", "br"]);
  assert.deepEqual(acceptedEncodings("br;q=0, *;q=0.1"), ["zstd", "gzip"]);
  assert.deepEqual(acceptedEncodings("identity, gzip;q=0.5"), []);
  assert.deepEqual(acceptedEncodings("X-GZIP"), ["gzip"]);
  assert.deepEqual(acceptedEncodings(""), []);
  assert.deepEqual(acceptedEncodings(undefined), []);
});

test("what an encoding does not make smaller is served plain and not tried again, also after a restart", async (t) => {
  const home = await mkdtemp(join(tmpdir(), "edge-encoded-"));
  t.after(() => rm(home, { recursive: true, force: true }));
  const content = randomBytes(2_000);
  await writeFile(join(home, "noise"), content);
  const file = { home, path: join(home, "noise"), sha256: "0".repeat(64), size: content.length };
  for (let start = 0; start < 2; start++) {
    const encodings = new Encodings(createLog("test", "silent"));
    assert.equal(encodings.pick(file, ["gzip"]), null);
    await encodings.idle();
    assert.equal(encodings.pick(file, ["gzip"]), null);
    await rm(join(home, "noise"), { force: true });
  }
});

test("the memory for small files is bounded, and the least recently used go first", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "edge-hot-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const hot = new HotFiles(2_500);
  for (const name of ["a", "b", "c"]) {
    await writeFile(join(folder, name), name.repeat(1_000));
    await hot.load(name, join(folder, name), 1_000);
    assert.ok(hot.bytes <= 2_500);
    if (name === "b") assert.ok(hot.get("a"));
  }
  assert.equal(hot.get("b"), null);
  assert.ok(hot.get("a") && hot.get("c"));
  assert.equal(await hot.load("large", join(folder, "a"), 1_000_000), null);
});
