import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { Digest, hexOf, parseDigest } from "./digest.ts";
import { type ArtifactStore, manifestType, type Stored, writeIndex, writeWhole } from "./store.ts";

export const sbomType = "application/vnd.cyclonedx+json";

export interface SbomPart {
  readonly mediaType: typeof sbomType;
  readonly digest: Digest;
  readonly size: number;
}

/** What the format wants where there is no config. */
const emptyType = "application/vnd.oci.empty.v1+json";
const empty = Buffer.from("{}");

/**
 * Makes the document known as one about the bundle, as other tools of the format find it: a manifest whose
 * subject the bundle is.
 *
 * @see https://github.com/opencontainers/image-spec/blob/main/manifest.md#guidelines-for-artifact-usage
 */
export async function addReferrer(store: ArtifactStore, subject: Stored, part: SbomPart): Promise<void> {
  const config = await store.put(empty);
  const text = JSON.stringify({
    schemaVersion: 2,
    mediaType: manifestType,
    artifactType: part.mediaType,
    config: { mediaType: emptyType, digest: config.digest, size: config.sizeBytes },
    layers: [{ mediaType: part.mediaType, digest: part.digest, size: part.size }],
    subject: { mediaType: manifestType, digest: subject.digest, size: subject.sizeBytes },
  });
  const { digest } = await store.put(Buffer.from(text));
  const place = join(store.folder, "refs", "referrers", hexOf(digest));
  await writeWhole(store, place, JSON.stringify({ subject: subject.digest }));
  await writeIndex(store);
}

const Kept = z.object({ subject: Digest });

export async function listReferrers(store: ArtifactStore): Promise<{ digest: Digest; subject: Digest }[]> {
  const found = [];
  const folder = join(store.folder, "refs", "referrers");
  for (const hex of (await readdir(folder)).sort()) {
    try {
      const { subject } = Kept.parse(JSON.parse(await readFile(join(folder, hex), "utf8")));
      found.push({ digest: parseDigest(`sha256:${hex}`), subject });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error; // Collected meanwhile.
    }
  }
  return found;
}
