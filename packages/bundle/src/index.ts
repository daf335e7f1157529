export { openArtifactStore, type ArtifactStore, type Stored } from "./store.ts";
export { Digest, parseDigest } from "./digest.ts";
export { freezeFolder, type FreezeOptions, type FrozenFolder } from "./freeze.ts";
export { unpackSource, type UnpackOptions } from "./unpack.ts";
export {
  buildBundle,
  readBundle,
  verifyBundle,
  unpackBundle,
  BundleConfig,
  BundleDeclaration,
  BundleManifest,
  EnvDeclaration,
  type Bundle,
  type BuildBundleOptions,
  type BuiltBundle,
} from "./bundle.ts";
export { diffContents, readContents, type ContentLine, type ContentsDiff } from "./contents.ts";
export { listReferrers, sbomType } from "./referrers.ts";
export { materializeStatic, StaticIndex, type StaticFiles } from "./static-files.ts";
export {
  createProvenance,
  signStatement,
  verifyEnvelope,
  storeAttestation,
  readAttestations,
  Envelope,
  ProvenanceStatement,
  type ProvenanceInput,
} from "./provenance.ts";
export {
  assembleChunks,
  cutIntoChunks,
  cutStream,
  largestChunk,
  putChunk,
  removeChunks,
  type Chunk,
} from "./chunks.ts";
export {
  SecretSearch,
  shortestSecret,
  spellings,
  type KnownSecret,
  type SecretEncoding,
  type SecretFinding,
} from "./secret-search.ts";
export { listDigests, collectGarbage, type Collected } from "./garbage.ts";
export {
  ArtifactError,
  ArtifactMissingError,
  ArchiveTooLargeError,
  BundleTamperedError,
  ChunksMissingError,
  DigestMismatchError,
  type FileDifference,
  NotABundleError,
  SecretFoundError,
  SignatureInvalidError,
  SourceChangedError,
  SourceRefusedError,
  SymlinkEscapesError,
  UnsafeArchiveError,
  type BlobRole,
} from "./errors.ts";
