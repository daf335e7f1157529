import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { z } from "zod";

export const Digest = z.templateLiteral(["sha256:", z.string().regex(/^[0-9a-f]{64}$/)]);
export type Digest = z.output<typeof Digest>;

/** @throws ZodError if the text is no sha256 digest, so that it can never be a path */
export const parseDigest = (text: string): Digest => Digest.parse(text);

/** The 64 hexadecimal digits. */
export const hexOf = (digest: Digest): string => parseDigest(digest).slice("sha256:".length);

export const digestOf = (bytes: Uint8Array | string): Digest =>
  `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

/** @returns `null` only if there is no such file */
export async function digestOfFile(path: string): Promise<{ digest: Digest; sizeBytes: number } | null> {
  const hash = createHash("sha256");
  let sizeBytes = 0;
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
      hash.update(chunk);
      sizeBytes += chunk.length;
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  return { digest: `sha256:${hash.digest("hex")}`, sizeBytes };
}
