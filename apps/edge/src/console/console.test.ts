import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { request } from "node:http";
import { after, before, test } from "node:test";
import {
  brotliCompressSync,
  brotliDecompressSync,
  gunzipSync,
  gzipSync,
  zstdCompressSync,
  zstdDecompressSync,
} from "node:zlib";
import { waitFor } from "@platform/daemon";
import type { ConsoleEntry, RouteTarget } from "@platform/edge-api";
import { sandboxIdOf } from "../testing/control-plane.ts";
import { boxes, Rig, type App } from "../testing/rig.ts";

const host = "3000-abc.clinic.test";
const html = { accept: "text/html,*/*;q=0.8" };
const page = "<!doctype html><html><head><title>app</title></head><body>hello</body></html>";
const tag = /<script src="(\/_edge\/console\.js\?v=[0-9a-f]{12})"( nonce="[^"]*")?><\/script>/;

let rig: Rig;
let app: App;
before(async () => {
  rig = await Rig.start();
  app = await rig.app((req, res) => answers[(req.url ?? "/").split("?")[0]!]!(req, res));
  await rig.publish({
    [host]: listened(),
    "off.clinic.test": boxes(app.upstream),
    "deployed.clinic.test": boxes(app.upstream),
    "other.clinic.test": listened(),
    "asleep.clinic.test": { type: "wake", accessSha256: null, console: true },
    "private.clinic.test": listened(createHash("sha256").update("t0ken").digest("hex")),
  });
});
after(() => rig?.stop());

const listened = (accessSha256: string | null = null): RouteTarget =>
  ({ ...boxes(app.upstream), accessSha256, console: true }) as RouteTarget;

type Listener = Parameters<Rig["app"]>[0];
const send =
  (headers: Record<string, string>, body: string | Buffer = page, status = 200): Listener =>
  (_req, res) =>
    res.writeHead(status, { "content-type": "text/html; charset=utf-8", ...headers }).end(body);
let cut = () => {};
const answers: Record<string, Listener> = {
  "/": send({ "content-length": String(page.length), etag: '"strong"', "content-md5": "x", "x-own": "1" }),
  "/weak": send({ etag: 'W/"weak"' }),
  "/gzip": send({ "content-encoding": "gzip" }, gzipSync(page)),
  "/br": send({ "content-encoding": "br" }, brotliCompressSync(page)),
  "/zstd": send({ "content-encoding": "zstd" }, zstdCompressSync(page)),
  "/deflate": send({ "content-encoding": "deflate" }, "raw bytes"),
  "/broken-gzip": send({ "content-encoding": "gzip" }, gzipSync(page).subarray(0, 40)),
  "/json": (_req, res) => res.writeHead(200, { "content-type": "application/json" }).end("{}"),
  "/nonce": send({ "content-security-policy": "script-src 'nonce-r4nd0m' 'strict-dynamic'" }),
  "/closed": send({ "content-security-policy": "default-src 'none'" }),
  "/no-transform": send({ "cache-control": "no-store, no-transform" }),
  "/not-modified": (_req, res) => res.writeHead(304, { etag: '"strong"', "content-type": "text/html" }).end(),
  "/part": send({ "content-range": "bytes 0-5/100" }, "<html>", 206),
  "/empty": send({ "content-length": "0" }, ""),
  "/failed": send({}, page, 500),
  "/slow": (_req, res) => {
    res.writeHead(200, { "content-type": "text/html" }).write("<html><head><title>first</title>");
    cut = () => res.end("<p>second");
  },
  "/cut": (_req, res) => {
    res.writeHead(200, { "content-type": "text/html" }).write("<html><head>");
    cut = () => res.destroy();
  },
};

for (const path of ["/", "/weak", "/failed"])
  test(`a page of a preview gets the script first in its head: ${path}`, async () => {
    const { headers, body } = await rig.fetch(host, path, { headers: html });
    assert.match(body, tag);
    assert.equal(body.replace(tag, ""), page);
    assert.ok(body.indexOf("<script") === body.indexOf("<head>") + "<head>".length);
    assert.equal(headers["content-md5"], undefined);
    assert.equal(headers["content-length"], undefined);
    if (path === "/") assert.deepEqual([headers.etag, headers["x-own"]], ['W/"strong"', "1"]);
    if (path === "/weak") assert.equal(headers.etag, 'W/"weak"');
  });

const decoders = { gzip: gunzipSync, br: brotliDecompressSync, zstd: zstdDecompressSync } as const;
for (const [coding, decode] of Object.entries(decoders))
  test(`a page in ${coding} stays in ${coding}`, async () => {
    const { headers, bytes } = await rig.fetch(host, `/${coding}`, { headers: html });
    assert.equal(headers["content-encoding"], coding);
    const body = decode(bytes).toString();
    assert.match(body, tag);
    assert.equal(body.replace(tag, ""), page);
  });

test("a compressed page that breaks off inside breaks off for the visitor too", async () => {
  await assert.rejects(rig.fetch(host, "/broken-gzip", { headers: html }), /aborted|hang up|ECONNRESET/);
});

test("a page that comes in pieces does, also with the script in it", async () => {
  let text = "";
  await fetchPieces("/slow", (piece) => {
    text += piece;
    if (text.includes("first")) cut();
  });
  assert.match(text, tag);
  assert.ok(text.endsWith("<p>second"));
});

test("an app that breaks off in the middle of a page is seen to", async () => {
  await assert.rejects(fetchPieces("/cut", () => cut()));
});

function fetchPieces(path: string, hear: (text: string) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const options = { port: rig.edge.port, host: "127.0.0.1", path, headers: { ...html, host } };
    request(options, (res) => {
      res.setEncoding("utf8").on("data", hear).on("end", resolve).on("error", reject);
    })
      .on("error", reject)
      .end();
  });
}

const untouched: Record<string, Record<string, string>> = {
  "/json": html,
  "/part": html,
  "/empty": html,
  "/not-modified": html,
  "/?by-script": { accept: "*/*" },
  "/?by-fetch": { ...html, "sec-fetch-dest": "empty" },
  "/?by-htmx": { ...html, "hx-request": "true" },
};
for (const [path, headers] of Object.entries(untouched))
  test(`left as the app sent it: ${path}`, async () => {
    const listening = await rig.fetch(host, path, { headers });
    const plain = await rig.fetch("off.clinic.test", path, { headers });
    assert.deepEqual(
      [listening.status, listening.body, listening.headers.etag, listening.headers["content-length"]],
      [plain.status, plain.body, plain.headers.etag, plain.headers["content-length"]],
    );
    assert.doesNotMatch(listening.body, /_edge/);
  });

test("a deployment, and a preview that is not listened to, get no script and have no door", async () => {
  for (const name of ["off.clinic.test", "deployed.clinic.test"]) {
    assert.equal((await rig.fetch(name, "/", { headers: html })).body, page);
    answers["/_edge/console.js"] = (_req, res) => void res.end("the app's own");
    assert.equal((await rig.fetch(name, "/_edge/console.js")).body, "the app's own");
  }
});

test("a policy with a nonce: the script carries it", async () => {
  const { body } = await rig.fetch(host, "/nonce", { headers: html });
  assert.equal(tag.exec(body)?.[2], ' nonce="r4nd0m"');
});

for (const [path, reason] of Object.entries({
  "/closed": "allows no requests to its own origin",
  "/no-transform": "no-transform",
  "/deflate": "Content-Encoding is deflate",
}))
  test(`a page that cannot be listened to is left alone, and that is said once: ${path}`, async () => {
    const name = `${path.slice(1)}.clinic.test`;
    await rig.publish({ [name]: listened() });
    for (let n = 0; n < 3; n++)
      assert.doesNotMatch((await rig.fetch(name, path, { headers: html })).body, /_edge/);
    await said(name, "nothing else");
    const notices = entriesOf(name).filter(({ kind }) => kind === "notice");
    assert.equal(notices.length, 1);
    assert.match(notices[0]!.text, new RegExp(reason));
    assert.equal(notices[0]!.page, path);
  });

test("the script is served to be kept, under a name of nobody's", async () => {
  const { body } = await rig.fetch(host, "/", { headers: html });
  const script = await rig.fetch(host, tag.exec(body)![1]!);
  assert.equal(script.status, 200);
  assert.match(script.headers["cache-control"]!, /immutable/);
  assert.match(script.headers["content-type"]!, /^text\/javascript/);
  assert.equal((await rig.fetch(host, "/_edge/console.js", { method: "POST" })).status, 405);
  assert.equal((await rig.fetch(host, "/_edge/console")).status, 405);
});

test("what a page says arrives with the sandbox of its host name, whatever it claims", async () => {
  const answer = await post(host, {
    entries: [
      {
        level: "error",
        kind: "exception",
        text: "boom",
        line: 3,
        sandboxId: sandboxIdOf("other.clinic.test"),
      },
    ],
    sandboxId: sandboxIdOf("other.clinic.test"),
    hostname: "other.clinic.test",
  });
  assert.equal(answer.status, 204);
  const entry = await heard(host, "boom");
  assert.deepEqual([entry.level, entry.kind, entry.line, entry.stack], ["error", "exception", 3, null]);
  assert.deepEqual(entriesOf("other.clinic.test"), []);
});

test("pages of other origins, other bodies and too large ones are refused", async () => {
  const body = { entries: [{ level: "log", kind: "console", text: "forged" }] };
  assert.equal((await post(host, body, { origin: "http://other.clinic.test" })).status, 403);
  assert.equal((await post(host, body, { origin: "null" })).status, 403);
  assert.equal(
    (await rig.fetch(host, "/_edge/console", { method: "POST", body: JSON.stringify(body) })).status,
    403,
  );
  assert.equal((await post(host, "not json")).status, 400);
  assert.equal((await post(host, { entries: Array(101).fill(body.entries[0]) })).status, 400);
  assert.equal((await post(host, { entries: [], filler: "x".repeat(70_000) })).status, 413);
  const chunked = await rig.fetch(host, "/_edge/console", {
    method: "POST",
    headers: { origin: `http://${host}`, "transfer-encoding": "chunked" },
    body: "x".repeat(70_000),
  });
  assert.equal(chunked.status, 413);
  await said(host, "the last word");
  assert.equal(
    entriesOf(host).some(({ text }) => text === "forged"),
    false,
  );
});

test("what is too long is cut, what is no entry left out", async () => {
  const entries = [
    { level: "loud", kind: "console", text: "x" },
    7,
    { level: "log", kind: "notice", text: "forged" },
  ];
  const long = { level: "log", kind: "console", text: "long".repeat(3_000), status: "many", line: -1 };
  assert.equal((await post(host, { entries: [...entries, long] })).status, 204);
  const entry = await heard(host, "long".repeat(1_024));
  assert.deepEqual([entry.status, entry.line], [null, null]);
  assert.equal(
    entriesOf(host).some(({ text }) => text === "forged"),
    false,
  );
});

test("a flood is counted instead of passed on, and costs no other sandbox a word", async () => {
  const name = "flood.clinic.test";
  await rig.publish({ [name]: listened(), "quiet.clinic.test": listened() });
  const entries = Array(100).fill({ level: "log", kind: "console", text: "flood" }) as unknown[];
  for (let n = 0; n < 30; n++) assert.equal((await post(name, { entries, dropped: 1 })).status, 204);
  await said("quiet.clinic.test", "heard");
  await waitFor("all are counted", () => counted(name).all === 30 * 101, 10_000);
  assert.ok(counted(name).kept < 1_000, `${counted(name).kept} of 3,000 were passed on`);
  assert.ok(counted(name).kept >= 100);
});

test("a private preview listens to visitors with its token only", async () => {
  const name = "private.clinic.test";
  const body = { entries: [{ level: "log", kind: "console", text: "secretly" }] };
  assert.equal((await post(name, body)).status, 401);
  assert.equal((await post(name, body, { cookie: "edge_preview=t0ken" })).status, 204);
  await heard(name, "secretly");
});

test("a page that is left open does not wake its sandbox, nor count as its use", async () => {
  const name = "asleep.clinic.test";
  await said(name, "still open");
  assert.equal(rig.controlPlane.wakes.includes(name), false);
  const logged = () =>
    rig.controlPlane.batches
      .flat()
      .filter(({ hostname, path }) => hostname === name && path === "/_edge/console");
  await waitFor("the request is logged", () => logged().length > 0, 10_000);
  assert.deepEqual(
    logged().map(({ sandboxId }) => sandboxId),
    [null],
  );
});

const post = (name: string, body: unknown, headers: Record<string, string> = {}) =>
  rig.fetch(name, "/_edge/console", {
    method: "POST",
    headers: { origin: `http://${name}`, "content-type": "text/plain", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

const batchesOf = (name: string) =>
  rig.controlPlane.consoles.filter(
    ({ hostname, sandboxId }) => hostname === name && sandboxId === sandboxIdOf(name),
  );
const entriesOf = (name: string): ConsoleEntry[] => batchesOf(name).flatMap(({ entries }) => entries);
const counted = (name: string) => {
  const kept = entriesOf(name).length;
  return { kept, all: kept + batchesOf(name).reduce((sum, { dropped }) => sum + dropped, 0) };
};

/** Resolves once the control plane has the entry. */
async function heard(name: string, text: string): Promise<ConsoleEntry> {
  const found = () => entriesOf(name).find((one) => one.text === text);
  await waitFor(`"${text.slice(0, 40)}" of ${name}`, () => found() !== undefined, 10_000);
  return found()!;
}

/** The same, said here. */
async function said(name: string, text: string): Promise<ConsoleEntry> {
  assert.equal((await post(name, { entries: [{ level: "log", kind: "console", text }] })).status, 204);
  return heard(name, text);
}
