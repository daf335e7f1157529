import { readFile } from "node:fs/promises";
import {
  ArtifactMissingError,
  BundleTamperedError,
  diffContents,
  NotABundleError,
  readBundle,
  readContents,
  verifyBundle,
  type ArtifactStore,
  type Digest,
} from "@platform/bundle";
import type { BundleCheck, BundleDiff, BundleSbom } from "@platform/host-api";

const whole: BundleCheck = { ok: true, message: null, part: null, expected: null, actual: null, files: [] };

/** Reads every byte of a bundle. @throws ArtifactMissingError if there is no such bundle at all */
export async function checkBundle(store: ArtifactStore, digest: Digest): Promise<BundleCheck> {
  try {
    await verifyBundle(store, digest);
    return whole;
  } catch (error) {
    if (error instanceof BundleTamperedError) {
      const { part, expected, actual, files } = error.details;
      return { ok: false, message: error.message, part, expected, actual, files: [...files] };
    }
    if (error instanceof NotABundleError)
      return { ...whole, ok: false, message: error.message, part: "manifest", expected: digest };
    throw error;
  }
}

async function contentsOf(store: ArtifactStore, digest: Digest) {
  const { contents } = (await readBundle(store, digest)).config.release;
  if (!contents)
    throw new NotABundleError(
      `${digest} was built by an older version and lists no files. Publish the app again to compare.`,
    );
  return readContents(store, contents.digest);
}

/** @throws ArtifactMissingError, BundleTamperedError, NotABundleError */
export async function diffBundles(store: ArtifactStore, from: Digest, to: Digest): Promise<BundleDiff> {
  const { added, removed, changed, counts } = diffContents(
    await contentsOf(store, from),
    await contentsOf(store, to),
  );
  return { added: [...added], removed: [...removed], changed: [...changed], counts };
}

/** @throws ArtifactMissingError, BundleTamperedError, NotABundleError */
export async function bundleSbom(store: ArtifactStore, digest: Digest): Promise<BundleSbom> {
  const { sbom } = (await readBundle(store, digest)).config.release;
  if (!sbom) return { digest: null, document: null };
  if (!(await store.has(sbom.digest))) throw new ArtifactMissingError(sbom.digest);
  return { digest: sbom.digest, document: JSON.parse(await readFile(store.blobPath(sbom.digest), "utf8")) };
}
