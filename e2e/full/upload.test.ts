import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import { test } from "node:test";
import { pack } from "tar-stream";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const chunkBytes = 256 * 1024;

/** A page and some megabytes that no compression would shorten. */
async function archive(mark: string, megabytes: number): Promise<Buffer> {
  const packed = pack();
  const filler = [];
  for (let at = 0; at < megabytes << 20; at += 32) filler.push(createHash("sha256").update(`${at}`).digest());
  packed.entry({ name: "filler.bin", mtime: new Date(0) }, Buffer.concat(filler));
  packed.entry({ name: "index.html", mtime: new Date(0) }, `<p>${mark}</p>\n`);
  packed.finalize();
  const parts: Buffer[] = [];
  for await (const part of packed) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

function cut(bytes: Buffer): Buffer[] {
  const parts = [];
  for (let at = 0; at < bytes.length; at += chunkBytes) parts.push(bytes.subarray(at, at + chunkBytes));
  return parts;
}

interface Sender {
  readonly platform: OwnPlatform;
  readonly deploymentId: string;
  sentBytes: number;
}

async function begin({ platform, deploymentId }: Sender, bytes: Buffer) {
  return (await platform.must("POST", `/deployments/${deploymentId}/uploads`, {
    size_bytes: bytes.length,
    sha256: sha256(bytes),
    chunks: cut(bytes).map((part) => ({ sha256: sha256(part), size_bytes: part.length })),
  })) as { id: string; missing: number[]; chunk_size: number };
}

async function put(sender: Sender, uploadId: string, index: number, part: Buffer): Promise<number> {
  const path = `/deployments/${sender.deploymentId}/uploads/${uploadId}/chunks/${index}`;
  sender.sentBytes += part.length;
  return (await sender.platform.put(path, part)).status;
}

/** Sends half of a chunk and hangs up, as a lost connection does. */
async function tear(sender: Sender, uploadId: string, index: number, part: Buffer): Promise<void> {
  const { apiUrl, apiKey } = sender.platform;
  const url = new URL(`${apiUrl}/deployments/${sender.deploymentId}/uploads/${uploadId}/chunks/${index}`);
  const socket = connect(Number(url.port), "127.0.0.1");
  await once(socket, "connect");
  socket.write(
    `PUT ${url.pathname} HTTP/1.1\r\nhost: ${url.host}\r\nauthorization: Bearer ${apiKey}\r\ncontent-type: application/octet-stream\r\ncontent-length: ${part.length}\r\n\r\n`,
  );
  const half = part.subarray(0, part.length / 50);
  sender.sentBytes += half.length;
  await new Promise<void>((resolve) => socket.write(half, () => resolve()));
  socket.destroy();
}

test("an upload survives 20 cuts, sends next to nothing twice, and is published", async (t) => {
  const platform = await startOwnPlatform();
  t.after(() => platform.stop());
  const { id: deploymentId } = (await platform.must("POST", "/deployments", { name: "uploaded" })) as {
    id: string;
  };
  const sender: Sender = { platform, deploymentId, sentBytes: 0 };
  const bytes = await archive("first", 24);
  const parts = cut(bytes);
  let upload = await begin(sender, bytes);
  assert.equal(upload.missing.length, parts.length);
  const early = await platform.api("POST", `/deployments/${deploymentId}/uploads/${upload.id}/complete`, {});
  assert.equal((early.body["error"] as { code: string }).code, "UPLOAD_INCOMPLETE");

  for (let cuts = 0; cuts < 20; cuts++) {
    const some = upload.missing.slice(0, 4);
    for (const index of some) assert.equal(await put(sender, upload.id, index, parts[index]!), 200);
    const next = upload.missing[4]!;
    await tear(sender, upload.id, next, parts[next]!);
    // A client that died begins anew: a new upload of the same bytes asks for the rest only.
    upload = await begin(sender, bytes);
    assert.equal(upload.missing.length, parts.length - 4 * (cuts + 1));
  }
  for (const index of upload.missing) await put(sender, upload.id, index, parts[index]!);
  assert.ok(sender.sentBytes < bytes.length * 1.01, `${sender.sentBytes} bytes for ${bytes.length}`);

  const wrong = await begin(sender, Buffer.concat([bytes, Buffer.from("x")]));
  assert.equal(await put(sender, wrong.id, wrong.missing[0]!, Buffer.from("not the chunk")), 422);
  const done = await platform.must("POST", `/deployments/${deploymentId}/uploads/${upload.id}/complete`, {});
  assert.equal(done["state"], "complete");
  const published = await platform.must("POST", `/deployments/${deploymentId}/publish`, {
    source_upload_id: upload.id,
  });
  const url = String((published["deployment"] as { public_url: string }).public_url);
  assert.equal((await platform.visit(url)).text, "<p>first</p>\n");

  const before = sender.sentBytes;
  const edited = await archive("second", 24);
  const again = await begin(sender, edited);
  for (const index of again.missing) await put(sender, again.id, index, cut(edited)[index]!);
  assert.ok(sender.sentBytes - before < edited.length * 0.05);
  await platform.must("POST", `/deployments/${deploymentId}/uploads/${again.id}/complete`, {});
  await platform.must("POST", `/deployments/${deploymentId}/publish`, { source_upload_id: again.id });
  assert.equal((await platform.visit(url)).text, "<p>second</p>\n");
});

test("an upload that is no archive is refused, and what it was is said", async (t) => {
  const platform = await startOwnPlatform();
  t.after(() => platform.stop());
  const { id: deploymentId } = (await platform.must("POST", "/deployments", { name: "torn" })) as {
    id: string;
  };
  const sender: Sender = { platform, deploymentId, sentBytes: 0 };
  const bytes = Buffer.from("this is no tar ".repeat(100));
  const upload = await begin(sender, bytes);
  await put(sender, upload.id, 0, bytes);
  await platform.must("POST", `/deployments/${deploymentId}/uploads/${upload.id}/complete`, {});
  const answer = await platform.api("POST", `/deployments/${deploymentId}/publish`, {
    source_upload_id: upload.id,
  });
  assert.deepEqual([answer.status, (answer.body["error"] as { code: string }).code], [422, "SOURCE_INVALID"]);
});
