import { createHash } from "node:crypto";
import { createReadStream, readFileSync } from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { refute } from "./proof.ts";

interface Descriptor {
  readonly digest: string;
  readonly size: number;
}

/**
 * Hashes a release's bytes on disk again: its manifest, and everything that the manifest names. Shares
 * no code with what wrote them.
 *
 * @param digest `sha256:` and 64 hex digits, or the digits alone
 * @returns bytes hashed
 */
export async function hashRelease(
  artifactsDir: string,
  digest: string,
): Promise<{ digest: string; blobs: number; sizeBytes: number }> {
  const root = digest.startsWith("sha256:") ? digest : `sha256:${digest}`;
  const manifestSize = await hashBlob(artifactsDir, root);
  const manifest = JSON.parse(readFileSync(blobFile(artifactsDir, root), "utf8")) as {
    readonly config: Descriptor;
    readonly layers: readonly Descriptor[];
  };
  let sizeBytes = manifestSize;
  const parts = [manifest.config, ...manifest.layers];
  for (const part of parts) sizeBytes += await hashBlob(artifactsDir, part.digest);
  return { digest: root, blobs: parts.length + 1, sizeBytes };
}

const blobFile = (artifactsDir: string, digest: string): string =>
  join(artifactsDir, "blobs", "sha256", digest.slice("sha256:".length));

async function hashBlob(artifactsDir: string, digest: string): Promise<number> {
  if (!/^sha256:[0-9a-f]{64}$/.test(digest))
    refute(`"${digest}" is no digest`, "Read the control plane's log.");
  const hash = createHash("sha256");
  let sizeBytes = 0;
  await pipeline(
    createReadStream(blobFile(artifactsDir, digest)),
    async function (chunks: AsyncIterable<Buffer>) {
      for await (const chunk of chunks) {
        hash.update(chunk);
        sizeBytes += chunk.length;
      }
    },
  );
  const found = `sha256:${hash.digest("hex")}`;
  if (found !== digest)
    refute(`the bytes of ${digest} hash to ${found}`, "The artifact is damaged: publish again.");
  return sizeBytes;
}
