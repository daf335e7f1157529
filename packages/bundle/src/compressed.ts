import { once } from "node:events";
import { finished } from "node:stream/promises";
import { createBrotliDecompress, createGunzip, createZstdDecompress } from "node:zlib";

/** Of one file: what a few bytes unpack to has no end of its own. */
const mostUnpackedBytes = 256 * 1024 * 1024;

const unpackers: Readonly<Record<string, () => NodeJS.ReadWriteStream & { destroy(): unknown }>> = {
  ...{ gz: createGunzip, tgz: createGunzip, svgz: createGunzip, br: createBrotliDecompress },
  zst: createZstdDecompress,
};

/** Gives a file's bytes on as they are, and to `look` what they are unpacked, where the name tells of a compression. */
export async function* unpackedFor(
  path: string,
  content: AsyncIterable<Buffer>,
  look: (chunk: Buffer) => void,
): AsyncIterable<Buffer> {
  const create = unpackers[/\.(\w+)$/.exec(path)?.[1]?.toLowerCase() ?? ""];
  if (!create) {
    yield* content;
    return;
  }
  const unpacker = create();
  let unpackedBytes = 0;
  let isOver = false;
  unpacker.on("data", (chunk: Buffer) => {
    unpackedBytes += chunk.length;
    if (unpackedBytes > mostUnpackedBytes) unpacker.destroy();
    else look(chunk);
  });
  // What is not compressed as its name says is looked at as it is, elsewhere.
  const ended = finished(unpacker)
    .catch(() => undefined)
    .finally(() => (isOver = true));
  try {
    for await (const chunk of content) {
      if (!isOver && !unpacker.write(chunk)) await Promise.race([once(unpacker, "drain"), ended]);
      yield chunk;
    }
    if (!isOver) unpacker.end();
    await ended;
  } finally {
    unpacker.destroy();
  }
}
