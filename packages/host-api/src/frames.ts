/**
 * The stream of a backup, between host and control plane: frames of one byte for the type, four for the
 * length and the content. It begins with a manifest and is whole only with its end.
 */
export const frameTypes = { manifest: 1, data: 2, file: 3, end: 4 } as const;
export type FrameType = keyof typeof frameTypes;

export interface Frame {
  readonly type: FrameType;
  readonly content: Buffer;
}

/** A log segment of PostgreSQL has 16 MiB. */
const mostBytes = 64 * 1024 * 1024;
const names = Object.entries(frameTypes) as [FrameType, number][];

export function encodeFrame(type: FrameType, content: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt8(frameTypes[type], 0);
  head.writeUInt32BE(content.length, 1);
  return Buffer.concat([head, content]);
}

/** A named file, small enough to be held in memory. */
export const encodeFile = (name: string, content: Buffer): Buffer =>
  encodeFrame("file", Buffer.concat([Buffer.from(`${name}\0`), content]));

export function decodeFile(content: Buffer): { name: string; content: Buffer } {
  const end = content.indexOf(0);
  const name = content.toString("utf8", 0, end);
  // It becomes a path on the host.
  if (!/^[A-Za-z0-9_.]{1,64}$/.test(name) || name.startsWith("."))
    throw new Error("a file of the backup has no proper name");
  return { name, content: content.subarray(end + 1) };
}

/** @throws Error when the stream stops before its end or is no such stream */
export async function* readFrames(source: AsyncIterable<Buffer>): AsyncGenerator<Frame> {
  let chunks: Buffer[] = [];
  let size = 0;
  let wanted = 5;
  let type: FrameType | null = null;
  let hasEnded = false;
  for await (const chunk of source) {
    chunks.push(chunk);
    size += chunk.length;
    while (size >= wanted) {
      const all = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, size);
      const taken = all.subarray(0, wanted);
      chunks = [all.subarray(wanted)];
      size -= wanted;
      if (type === null) {
        type = names.find(([, number]) => number === taken.readUInt8(0))?.[0] ?? null;
        wanted = taken.readUInt32BE(1);
        if (type === null || wanted > mostBytes || hasEnded) throw new Error("the stream is no backup");
        if (wanted > 0) continue;
        hasEnded = type === "end";
        yield { type, content: Buffer.alloc(0) };
      } else yield { type, content: taken };
      type = null;
      wanted = 5;
    }
  }
  if (!hasEnded || size > 0) throw new Error("the backup is cut off before its end");
}
