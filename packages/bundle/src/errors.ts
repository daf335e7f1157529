import type { Digest } from "./digest.ts";
import type { SecretFinding } from "./secret-search.ts";

/** Root of this package's expected failures; `code` is what programs switch on. */
export abstract class ArtifactError extends Error {
  abstract readonly code: string;
  /** Facts for programs. */
  readonly details: Readonly<Record<string, unknown>> = {};
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

export class ArtifactMissingError extends ArtifactError {
  readonly code = "ARTIFACT_MISSING";
  readonly digest: Digest;
  constructor(digest: Digest) {
    super(`${digest} is not in the artifact store. Copy or build it again, then retry.`);
    this.digest = digest;
  }
}

/** A symbolic link points, or could point, outside the folder. */
export class SymlinkEscapesError extends ArtifactError {
  readonly code = "SYMLINK_ESCAPES";
  readonly path: string;
  readonly target: string;
  override readonly details: { readonly path: string; readonly target: string };
  constructor(path: string, target: string) {
    super(
      `The symbolic link ${path} points to ${target}, which leaves the folder. ` +
        `Make it relative without ".." after a name, replace it by a copy, or exclude it, then retry.`,
    );
    this.path = path;
    this.target = target;
    this.details = { path, target };
  }
}

/** A file changed while it was read, so no consistent copy of it exists. */
export class SourceChangedError extends ArtifactError {
  readonly code = "SOURCE_CHANGED";
  readonly path: string;
  constructor(path: string, options?: ErrorOptions) {
    super(`${path} changed while it was read. Stop what writes to it or exclude it, then retry.`, options);
    this.path = path;
  }
}

/** A file cannot be named in an archive, or the folder is past a limit. */
export class SourceRefusedError extends ArtifactError {
  readonly code = "SOURCE_REFUSED";
}

/** Known secrets stand in files that were to become a bundle; nothing of it was kept. */
export class SecretFoundError extends ArtifactError {
  readonly code = "SECRET_FOUND";
  override readonly details: { readonly findings: readonly SecretFinding[] };
  constructor(findings: readonly SecretFinding[]) {
    const { file, line, name } = findings[0]!;
    const more = findings.length > 1 ? `, and ${findings.length - 1} more` : "";
    super(`${file}:${line} holds the value of ${name}${more}.`);
    this.details = { findings };
  }
}

/** Chunks of an upload that are not in the store, or not as they were sent. */
export class ChunksMissingError extends ArtifactError {
  readonly code = "CHUNKS_MISSING";
  override readonly details: { readonly missing: readonly Digest[] };
  constructor(missing: readonly Digest[]) {
    super(`${missing.length} chunks are missing. Send them again.`);
    this.details = { missing };
  }
}

export class DigestMismatchError extends ArtifactError {
  readonly code = "DIGEST_MISMATCH";
  constructor(wanted: Digest, found: Digest) {
    super(`The bytes have the digest ${found}, not ${wanted}.`);
  }
}

/** The archive would write outside its folder, or holds what this platform never packs. */
export class UnsafeArchiveError extends ArtifactError {
  readonly code = "UNSAFE_ARCHIVE";
}

export class ArchiveTooLargeError extends ArtifactError {
  readonly code = "ARCHIVE_TOO_LARGE";
}

export interface FileDifference {
  readonly path: string;
  /** Digest of the file, or where the link leads; `null`: not there. */
  readonly expected: string | null;
  readonly actual: string | null;
}

export type BlobRole = "manifest" | "config" | "layer" | "sbom" | "list of files" | "source" | "attestation";

/** A blob's bytes are not those its name promises. */
export class BundleTamperedError extends ArtifactError {
  readonly code = "BUNDLE_TAMPERED";
  readonly role: BlobRole;
  readonly wanted: Digest;
  /** `null` if the blob is gone. */
  readonly found: Digest | null;
  override readonly details: {
    readonly part: BlobRole;
    readonly expected: Digest;
    readonly actual: Digest | null;
    /** Of a layer: the files in it that differ. */
    readonly files: readonly FileDifference[];
  };
  constructor(role: BlobRole, wanted: Digest, found: Digest | null, files: readonly FileDifference[] = []) {
    const first = files[0];
    const which = first
      ? ` ${first.path} should be ${first.expected ?? "absent"} and is ${first.actual ?? "gone"}${files.length > 1 ? `, and ${files.length - 1} more` : ""}.`
      : "";
    super(
      found === null
        ? `The ${role} ${wanted} is missing from the artifact store. Build it again.`
        : `The ${role} was changed in the artifact store: wanted ${wanted}, found ${found}.${which} Build it again.`,
    );
    this.role = role;
    this.wanted = wanted;
    this.found = found;
    this.details = { part: role, expected: wanted, actual: found, files };
  }
}

/** The bytes are genuine, but they are not a bundle that this version can read. */
export class NotABundleError extends ArtifactError {
  readonly code = "NOT_A_BUNDLE";
}

export class SignatureInvalidError extends ArtifactError {
  readonly code = "SIGNATURE_INVALID";
}
