import { createCipheriv, createHash } from "node:crypto";
import { createWriteStream } from "node:fs";
import { open } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { pack } from "tar-stream";

const blockBytes = 1 << 20;

/** Bytes that no compression shortens, the same in each run. */
function* noise(megabytes: number): Iterable<Buffer> {
  const cipher = createCipheriv("aes-256-ctr", Buffer.alloc(32, 1), Buffer.alloc(16));
  const zeros = Buffer.alloc(blockBytes);
  for (let block = 0; block < megabytes; block++) yield cipher.update(zeros);
}

/** An app's archive on disk: notes at its front, some megabytes, and a page. Never whole in memory. */
export async function writeArchive(
  path: string,
  megabytes: number,
  mark: string,
  notes: string,
): Promise<void> {
  const archive = pack();
  const written = pipeline(archive, createWriteStream(path));
  const mtime = new Date(0);
  archive.entry({ name: "a-notes.txt", mtime }, notes);
  await pipeline(
    Readable.from(noise(megabytes)),
    archive.entry({ name: "filler.bin", mtime, size: megabytes * 2 ** 20 }),
  );
  archive.entry({ name: "index.html", mtime }, `<p>${mark}</p>\n`);
  archive.finalize();
  await written;
}

export interface CutFile {
  readonly path: string;
  readonly sizeBytes: number;
  readonly sha256: string;
  readonly chunks: readonly {
    readonly sha256: string;
    readonly size_bytes: number;
    readonly offset: number;
  }[];
}

const smallest = 128 * 1024;
const largest = 900 * 1024;
/** One place in 2^18 ends a chunk. */
const mask = 0xffff_c000;
const gear = Uint32Array.from({ length: 256 }, (_, byte) =>
  createHash("sha256").update(`any client's ${byte}`).digest().readUInt32BE(0),
);

/** Where the chunk at the front of these bytes ends: by its content, so that an insertion moves no later end. */
function endOf(bytes: Buffer): number {
  const last = Math.min(bytes.length, largest);
  let hash = 0;
  for (let at = smallest; at < last; at++) {
    hash = ((hash << 1) + gear[bytes[at]!]!) >>> 0;
    if ((hash & mask) === 0) return at + 1;
  }
  return last;
}

/** Cuts a file as a client of its own would: the server takes any cuts. */
export async function cutFile(path: string): Promise<CutFile> {
  const whole = createHash("sha256");
  const chunks: CutFile["chunks"][number][] = [];
  const handle = await open(path, "r");
  const window = Buffer.alloc(largest);
  let offset = 0;
  try {
    for (;;) {
      const { bytesRead } = await handle.read(window, 0, window.length, offset);
      if (bytesRead === 0) break;
      const content = window.subarray(0, endOf(window.subarray(0, bytesRead)));
      whole.update(content);
      const sha256 = createHash("sha256").update(content).digest("hex");
      chunks.push({ sha256, size_bytes: content.length, offset });
      offset += content.length;
    }
  } finally {
    await handle.close();
  }
  return { path, sizeBytes: offset, sha256: whole.digest("hex"), chunks };
}

export async function readChunk(file: CutFile, index: number): Promise<Buffer> {
  const { offset, size_bytes } = file.chunks[index]!;
  const handle = await open(file.path, "r");
  try {
    const content = Buffer.alloc(size_bytes);
    await handle.read(content, 0, size_bytes, offset);
    return content;
  } finally {
    await handle.close();
  }
}
