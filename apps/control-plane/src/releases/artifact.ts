import { PlatformError, type ReleaseCheck, type ReleaseDiff, type ReleaseSbom } from "@platform/contract";
import { HostError } from "@platform/host-api";
import type { Platform } from "../platform.ts";
import { examine } from "./provenance.ts";
import { diffSboms } from "./sbom/index.ts";
import type { ReleaseRow } from "./store.ts";

/** @throws PlatformError RELEASE_NOT_READY */
function digestOf(release: ReleaseRow): string {
  if (release.artifact_sha256) return `sha256:${release.artifact_sha256}`;
  throw new PlatformError(
    "RELEASE_NOT_READY",
    `Release ${release.id} is ${release.state} and has no artifact. Publish the app again.`,
  );
}

/** A bundle whose bytes are not what was built, as the refusal that everything else gives for it; null for other failures. */
export function notAsBuilt(error: unknown): PlatformError | null {
  if (!(error instanceof HostError) || error.details["reason"] !== "BUNDLE_TAMPERED") return null;
  const { part, expected, actual, files } = error.details;
  return new PlatformError(
    "PROVENANCE_INVALID",
    `The release is not what was built. ${error.message} Publish the app again, or promote another release.`,
    { details: { part, expected, actual, files }, cause: error },
  );
}

/** What the host says of a bundle, in the words of the API. */
async function asked<T>(release: ReleaseRow, ask: Promise<T>): Promise<T> {
  try {
    return await ask;
  } catch (error) {
    const tampered = notAsBuilt(error);
    if (tampered) throw tampered;
    if (!(error instanceof HostError) || (error.code !== "NOT_FOUND" && error.code !== "INVALID"))
      throw error;
    throw new PlatformError(
      "RELEASE_NOT_READY",
      `The artifact of release ${release.id} cannot be read: ${error.message}`,
      { cause: error },
    );
  }
}

/** Checks the signature, what is stored beside it, and every byte on the host's disk. */
export async function verifyRelease(
  platform: Platform,
  release: ReleaseRow,
  signal: AbortSignal,
): Promise<ReleaseCheck> {
  const digest = digestOf(release);
  const { verified, why, differs } = await examine(platform, release);
  const artifact = await asked(release, platform.host.checkBundle(digest, signal));
  return {
    release_id: release.id,
    verified: verified && artifact.ok,
    signature: { verified, reason: why, differs: [...differs] },
    artifact,
  };
}

export async function releaseSbom(
  platform: Platform,
  release: ReleaseRow,
  signal: AbortSignal,
): Promise<ReleaseSbom> {
  const { digest, document } = await asked(release, platform.host.bundleSbom(digestOf(release), signal));
  return { release_id: release.id, digest, sbom: document };
}

const settingsOf = (release: ReleaseRow): [string, string | null][] => [
  ["digest", release.artifact_sha256],
  ["kind", release.kind],
  ["start_command", release.start_command],
  ["port", release.port === null ? null : String(release.port)],
  ["health_check_path", release.health_check_path],
];

interface EnvNames {
  readonly env?: readonly { readonly name: string; readonly value_sha256?: string }[];
}

function diffEnv(from: ReleaseRow, to: ReleaseRow): ReleaseDiff["env"] {
  const namesOf = ({ artifact_manifest }: ReleaseRow) =>
    new Map(((artifact_manifest as EnvNames).env ?? []).map((one) => [one.name, one.value_sha256]));
  const [before, after] = [namesOf(from), namesOf(to)];
  return {
    added: [...after.keys()].filter((name) => !before.has(name)).sort(),
    removed: [...before.keys()].filter((name) => !after.has(name)).sort(),
    changed: [...after.keys()]
      .filter((name) => before.has(name) && before.get(name) !== after.get(name))
      .sort(),
  };
}

export async function diffReleases(
  platform: Platform,
  from: ReleaseRow,
  to: ReleaseRow,
  signal: AbortSignal,
): Promise<ReleaseDiff> {
  const [before, after] = [digestOf(from), digestOf(to)];
  const [files, oldSbom, newSbom] = [
    await asked(from, platform.host.diffBundles(before, after, signal)),
    await asked(from, platform.host.bundleSbom(before, signal)),
    await asked(to, platform.host.bundleSbom(after, signal)),
  ];
  const later = new Map(settingsOf(to));
  return {
    from: from.id,
    to: to.id,
    same: before === after,
    settings: settingsOf(from)
      .map(([name, value]) => ({ name, from: value, to: later.get(name) ?? null }))
      .filter((one) => one.from !== one.to),
    env: diffEnv(from, to),
    dependencies: diffSboms(
      oldSbom.document as Parameters<typeof diffSboms>[0],
      newSbom.document as Parameters<typeof diffSboms>[1],
    ),
    files,
  };
}
