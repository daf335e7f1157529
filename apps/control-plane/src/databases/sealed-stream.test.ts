import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { DamagedStreamError, openStream, sealStream } from "./sealed-stream.ts";

const key = randomBytes(32);
async function* pieces(bytes: Buffer, size: number) {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}
async function all(source: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of source) chunks.push(chunk);
  return Buffer.concat(chunks);
}
const sealed = (bytes: Buffer, size = 70_001) => all(sealStream(pieces(bytes, size), key));
const opened = (bytes: Buffer, size = 33_333, by = key) => all(openStream(pieces(bytes, size), by));

test("what is sealed is opened again, whatever its length and pieces", async () => {
  for (const length of [0, 1, 1024 * 1024 - 1, 1024 * 1024, 1024 * 1024 + 1, 3_500_000]) {
    const plain = randomBytes(length);
    const closed = await sealed(plain);
    assert.ok((await opened(closed)).equals(plain), String(length));
    assert.ok((await opened(closed, 7_000_000)).equals(plain), String(length));
    if (length > 100) assert.equal(closed.indexOf(plain.subarray(0, 64)), -1);
  }
});

test("a stream that was cut off anywhere is refused, also between two pieces", async () => {
  const closed = await sealed(randomBytes(3_500_000));
  const piece = 1024 * 1024 + 20;
  for (const length of [0, 3, 12, 13, 12 + piece, 12 + 2 * piece, closed.length - 1])
    await assert.rejects(opened(closed.subarray(0, length)), DamagedStreamError, String(length));
});

test("a changed bit, exchanged pieces, something added and another key are refused", async () => {
  const closed = await sealed(randomBytes(2_500_000));
  for (const at of [0, 5, 12, 15, 20, 1_000_000, closed.length - 1]) {
    const changed = Buffer.from(closed);
    changed[at] = changed[at]! ^ 1;
    await assert.rejects(opened(changed), DamagedStreamError, String(at));
  }
  const piece = 1024 * 1024 + 20;
  const [head, one, two, rest] = [
    closed.subarray(0, 12),
    closed.subarray(12, 12 + piece),
    closed.subarray(12 + piece, 12 + 2 * piece),
    closed.subarray(12 + 2 * piece),
  ];
  await assert.rejects(opened(Buffer.concat([head, two, one, rest])), DamagedStreamError);
  await assert.rejects(opened(Buffer.concat([closed, Buffer.from("x")])), DamagedStreamError);
  await assert.rejects(opened(closed, 33_333, randomBytes(32)), DamagedStreamError);
});
