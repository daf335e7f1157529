import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, open, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { extract } from "tar-stream";
import { z } from "zod";
import { ImageError } from "../image-error.ts";
import { Descriptor, indexTypes, type ImageParts } from "./document.ts";

const partName = /^(?:\.\/)?(oci-layout|index\.json|blobs\/sha256\/[0-9a-f]{64})$/;
const maxParts = 1_000;

const invalid = (detail: string, cause?: unknown) =>
  new ImageError(
    "image_invalid",
    `${detail} Upload a tar of an OCI image layout, such as \`docker save\` or \`skopeo copy … oci-archive:\` writes.`,
    {},
    { cause },
  );

async function isGzip(path: string): Promise<boolean> {
  const file = await open(path, "r");
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(2), 0, 2, 0);
    return bytesRead === 2 && buffer[0] === 0x1f && buffer[1] === 0x8b;
  } finally {
    await file.close();
  }
}

/**
 * Takes the parts of a layout out of an uploaded tar, plain or by gzip. Only regular files with a part's
 * name are taken, so that no name or link of the tar leads anywhere.
 *
 * @param maxBytes of all parts together
 * @throws ImageError `image_invalid`, `disk_full`
 * @see https://github.com/opencontainers/image-spec/blob/main/image-layout.md
 */
export async function unpackLayout(
  archive: string,
  folder: string,
  maxBytes: number,
  signal: AbortSignal,
): Promise<ImageParts> {
  await mkdir(join(folder, "blobs/sha256"), { recursive: true, mode: 0o700 });
  let count = 0;
  let bytes = 0;
  const reader = extract();
  const written = (async () => {
    for await (const entry of reader) {
      const { name, type, size = 0 } = entry.header;
      const part = type === "file" ? partName.exec(name)?.[1] : undefined;
      if (part === undefined) {
        entry.resume();
        continue;
      }
      count += 1;
      bytes += size;
      if (count > maxParts) throw invalid(`The layout has more than ${maxParts} parts.`);
      if (bytes > maxBytes)
        throw new ImageError(
          "disk_full",
          `The image has more than ${maxBytes} bytes. Ask for a larger disk.`,
        );
      await pipeline(entry, createWriteStream(join(folder, part), { flags: "w", mode: 0o600 }));
    }
  })();
  const source = createReadStream(archive, { highWaterMark: 1024 * 1024 });
  try {
    await Promise.all([
      (await isGzip(archive))
        ? pipeline(source, createGunzip(), reader, { signal })
        : pipeline(source, reader, { signal }),
      written,
    ]);
  } catch (error) {
    signal.throwIfAborted();
    throw error instanceof ImageError ? error : invalid("The upload is no whole tar.", error);
  }
  const layout = await readFile(join(folder, "oci-layout"), "utf8").catch(() => null);
  if (layout === null) throw invalid("The upload has no oci-layout file.");
  return {
    root: async () => {
      const text = await readFile(join(folder, "index.json")).catch(() => null);
      if (text === null) throw invalid("The layout has no index.json.");
      return { mediaType: indexTypes[0]!, bytes: text };
    },
    open: async (descriptor) => openPart(join(folder, "blobs/sha256", hexOf(descriptor)), descriptor),
  };
}

const hexOf = (descriptor: Descriptor) =>
  z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .parse(descriptor.digest.slice("sha256:".length));

async function openPart(path: string, descriptor: Descriptor): Promise<Readable> {
  const file = await open(path, "r").catch(() => null);
  if (!file) throw invalid(`The layout lacks its part ${descriptor.digest}.`);
  return file.createReadStream({ highWaterMark: 1024 * 1024 });
}
