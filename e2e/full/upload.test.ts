import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Agent, request } from "undici";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";
import { cutFile, readChunk, writeArchive, type CutFile } from "./upload/archive.ts";
import { startProxy, whyNoProxy } from "./upload/proxy.ts";

/** Of the large file; CI sends a smaller one. */
const megabytes = Number(process.env["UPLOAD_MB"] ?? 2048);
const isLarge = megabytes > 256;
const cuts = 20;
/** What of a chunk has gone when the connection is cut: nearly all of it, where that is little of the whole. */
const tornPart = isLarge ? 0.9 : 0.02;
/** Of this process, which reads and sends the file: far below the large one, bytes. */
const mostMemory = 700 * 1024 * 1024;

interface Upload {
  readonly id: string;
  readonly missing: number[];
}

/** A client beyond the proxy, which counts every byte of a chunk that it gives away. */
class Sender {
  sentBytes = 0;
  readonly #url: string;
  readonly #key: string;
  readonly #agent = new Agent({ headersTimeout: 0, bodyTimeout: 0 });

  constructor(proxyUrl: string, deploymentId: string, key: string) {
    this.#url = `${proxyUrl}/deployments/${deploymentId}/uploads`;
    this.#key = key;
  }

  async #call(method: "POST" | "PUT", path: string, type: string, body: Buffer | string) {
    const headers = { authorization: `Bearer ${this.#key}`, "content-type": type };
    const answer = await request(this.#url + path, { method, headers, body, dispatcher: this.#agent });
    const text = await answer.body.text();
    return { status: answer.statusCode, text };
  }

  async #data(path: string, body: object): Promise<Record<string, unknown>> {
    const { status, text } = await this.#call("POST", path, "application/json", JSON.stringify(body));
    assert.ok(status < 300, `${path}: ${status} ${text.slice(0, 500)}`);
    return (JSON.parse(text) as { data: Record<string, unknown> }).data;
  }

  async begin(file: CutFile): Promise<Upload> {
    const chunks = file.chunks.map(({ sha256, size_bytes }) => ({ sha256, size_bytes }));
    const data = await this.#data("", { size_bytes: file.sizeBytes, sha256: file.sha256, chunks });
    return data as unknown as Upload;
  }

  async put(upload: Upload, index: number, content: Buffer): Promise<number> {
    this.sentBytes += content.length;
    return (await this.#call("PUT", `/${upload.id}/chunks/${index}`, "application/octet-stream", content))
      .status;
  }

  async putAll(file: CutFile, upload: Upload, indexes: readonly number[]): Promise<void> {
    for (const index of indexes)
      assert.equal(await this.put(upload, index, await readChunk(file, index)), 200, `chunk ${index}`);
  }

  /** Sends a part of a chunk and hangs up, as a lost connection does. */
  async tear(upload: Upload, index: number, content: Buffer): Promise<void> {
    const url = new URL(`${this.#url}/${upload.id}/chunks/${index}`);
    const socket = connect(Number(url.port), "127.0.0.1");
    socket.on("error", () => undefined); // The proxy may hang up first.
    await once(socket, "connect");
    socket.write(
      `PUT ${url.pathname} HTTP/1.1\r\nhost: ${url.host}\r\nauthorization: Bearer ${this.#key}\r\ncontent-type: application/octet-stream\r\ncontent-length: ${content.length}\r\n\r\n`,
    );
    const part = content.subarray(0, Math.floor(content.length * tornPart));
    this.sentBytes += part.length;
    await new Promise<void>((resolve) => socket.write(part, () => resolve()));
    socket.destroy();
  }

  complete = (upload: Upload) => this.#data(`/${upload.id}/complete`, {});
  close = () => this.#agent.close();
}

const deployment = async (platform: OwnPlatform, name: string) =>
  String((await platform.must("POST", "/deployments", { name }))["id"]);

test(`${megabytes} MB through a proxy that allows 1 MB survive ${cuts} cuts, and an edit sends next to nothing`, async (t) => {
  if (whyNoProxy !== null) return t.skip(whyNoProxy);
  const folder = await mkdtemp(join(tmpdir(), "upload-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const platform = await startOwnPlatform();
  t.after(() => platform.stop());
  const deploymentId = await deployment(platform, "uploaded");
  const sender = new Sender(await startProxy(t, platform.apiUrl), deploymentId, platform.apiKey);
  t.after(() => sender.close());

  await writeArchive(join(folder, "first.tar"), megabytes, "first", "short\n");
  const file = await cutFile(join(folder, "first.tar"));
  let upload = await sender.begin(file);
  assert.equal(upload.missing.length, file.chunks.length);
  assert.equal(await sender.put(upload, 0, Buffer.alloc(1_100_000)), 413, "the proxy lets long bodies pass");
  sender.sentBytes = 0;

  const step = Math.floor(file.chunks.length / (cuts + 1));
  for (let cut = 1; cut <= cuts; cut++) {
    await sender.putAll(file, upload, upload.missing.slice(0, step));
    const next = upload.missing[step]!;
    await sender.tear(upload, next, await readChunk(file, next));
    // A client that died begins anew: a new upload of the same bytes asks for the rest only.
    upload = await sender.begin(file);
    assert.equal(upload.missing.length, file.chunks.length - step * cut);
  }
  await sender.putAll(file, upload, upload.missing);
  const twice = sender.sentBytes - file.sizeBytes;
  t.diagnostic(`${file.chunks.length} chunks, ${file.sizeBytes} bytes, ${twice} of them sent twice`);
  assert.ok(twice < file.sizeBytes * 0.01, `${twice} bytes of ${file.sizeBytes} were sent twice`);
  assert.equal((await sender.complete(upload))["state"], "complete");

  const before = sender.sentBytes;
  // Everything after the front moves by some kilobytes, which are no multiple of a chunk.
  await writeArchive(join(folder, "second.tar"), megabytes, "second", "longer\n".repeat(700));
  const edited = await cutFile(join(folder, "second.tar"));
  const again = await sender.begin(edited);
  await sender.putAll(edited, again, again.missing);
  const sent = sender.sentBytes - before;
  t.diagnostic(`after an edit at the front ${again.missing.length} chunks, ${sent} bytes`);
  assert.ok(sent < edited.sizeBytes * 0.05, `${sent} of ${edited.sizeBytes} bytes were sent again`);
  assert.equal((await sender.complete(again))["state"], "complete");
  const memory = process.resourceUsage().maxRSS * 1024;
  t.diagnostic(`the client used at most ${Math.round(memory / 2 ** 20)} MiB`);
  assert.ok(memory < mostMemory, `${memory} bytes of memory`);

  if (isLarge) return;
  for (const [one, mark] of [
    [upload, "first"],
    [again, "second"],
  ] as const) {
    const published = await platform.must("POST", `/deployments/${deploymentId}/publish`, {
      source_upload_id: one.id,
    });
    const url = String((published["deployment"] as { public_url: string }).public_url);
    assert.equal((await platform.visit(url)).text, `<p>${mark}</p>\n`);
  }
});

test("an upload is refused while chunks are missing, with a wrong chunk, and when it is no archive", async (t) => {
  const platform = await startOwnPlatform();
  t.after(() => platform.stop());
  const folder = await mkdtemp(join(tmpdir(), "upload-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const deploymentId = await deployment(platform, "torn");
  const sender = new Sender(platform.apiUrl, deploymentId, platform.apiKey);
  t.after(() => sender.close());
  const path = join(folder, "none.tar");
  const content = Buffer.from("this is no tar ".repeat(100));
  await writeFile(path, content);
  const upload = await sender.begin(await cutFile(path));
  const uploads = `/deployments/${deploymentId}/uploads/${upload.id}`;
  const early = await platform.api("POST", `${uploads}/complete`, {});
  assert.equal((early.body["error"] as { code: string }).code, "UPLOAD_INCOMPLETE");
  assert.equal(await sender.put(upload, 0, Buffer.from("not the chunk")), 422);
  assert.equal(await sender.put(upload, 0, content), 200);
  await sender.complete(upload);
  const answer = await platform.api("POST", `/deployments/${deploymentId}/publish`, {
    source_upload_id: upload.id,
  });
  assert.deepEqual([answer.status, (answer.body["error"] as { code: string }).code], [422, "SOURCE_INVALID"]);
});
