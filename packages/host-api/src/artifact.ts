import { z } from "zod";
import { Digest } from "./box.ts";

/** Freezes a folder of a box into the artifact store: a deterministic tar, named by its digest. */
export const FreezeRequest = z.object({
  path: z.string().default("/workspace"),
  /** Names or relative paths left out, at any depth for plain names. */
  exclude: z.array(z.string()).default([]),
});
export const Frozen = z.object({ digest: Digest, sizeBytes: z.int(), files: z.int() });
export type Frozen = z.output<typeof Frozen>;

/** Unpacks a frozen folder under a new name directly below the workspace, where there is none yet. */
export const FillRequest = z.object({
  digest: Digest,
  folder: z
    .string()
    .regex(/^[\w.-]{1,64}$/)
    .refine((name) => name !== "." && name !== ".."),
});
export type FillRequest = z.input<typeof FillRequest>;

/** A part of an upload; the host checks its digest. */
export const ChunkRequest = z.object({ digest: Digest, base64: z.string().max(2 * 1024 * 1024) });
/** Makes one artifact, usable as a source, of parts that were put before. */
export const AssembleRequest = z.object({ chunks: z.array(Digest).max(50_000), digest: Digest });
export const Assembled = z.object({ digest: Digest, sizeBytes: z.int() });
export const RemoveChunksRequest = z.object({ chunks: z.array(Digest).max(50_000) });

/** Makes a bundle out of a folder in a box. The digest depends on content and manifest only. */
export const BundleRequest = z.object({
  path: z.string(),
  exclude: z.array(z.string()).default([]),
  kind: z.enum(["static", "dynamic"]),
  startCommand: z.string().nullable(),
  port: z.int().nullable(),
  healthCheckPath: z.string().nullable(),
  /** Names and scopes only: values are never in a bundle. */
  env: z.array(z.object({ name: z.string(), scope: z.enum(["build", "run"]), required: z.boolean() })),
  /** The frozen files it is built from. */
  source: Digest.nullable().default(null),
  /** A bill of materials (CycloneDX), put as an artifact before. */
  sbom: Digest.nullable().default(null),
  /** Values that refuse the bundle where they stand in it; kept nowhere. */
  secrets: z.array(z.object({ name: z.string(), value: z.string() })).default([]),
});
export type BundleRequest = z.input<typeof BundleRequest>;
export const Bundled = z.object({
  digest: Digest,
  sizeBytes: z.int(),
  files: z.int(),
  hasIndexHtml: z.boolean(),
});
export type Bundled = z.output<typeof Bundled>;

export const BundleNamed = z.object({ digest: Digest });
export const BundlePair = z.object({ from: Digest, to: Digest });

const Difference = z.object({
  path: z.string(),
  expected: z.string().nullable(),
  actual: z.string().nullable(),
});
/** What the bytes on the host's disk are, against what the bundle's digest promises. */
export const BundleCheck = z.object({
  ok: z.boolean(),
  /** Null where all is as it was built. */
  message: z.string().nullable(),
  part: z.string().nullable(),
  expected: z.string().nullable(),
  actual: z.string().nullable(),
  files: z.array(Difference),
});
export type BundleCheck = z.output<typeof BundleCheck>;

/** At most some hundred of each kind are listed; all are counted. */
export const BundleDiff = z.object({
  added: z.array(Difference),
  removed: z.array(Difference),
  changed: z.array(Difference),
  counts: z.object({ added: z.int(), removed: z.int(), changed: z.int() }),
});
export type BundleDiff = z.output<typeof BundleDiff>;

/** The document as it was stored; null where the bundle has none. */
export const BundleSbom = z.object({ digest: Digest.nullable(), document: z.unknown() });
export type BundleSbom = z.output<typeof BundleSbom>;

export const SnapshotInfo = z.object({
  key: z.string(),
  sizeBytes: z.int(),
  createdAt: z.string(),
  /** Driver whose boxes go on from the saved memory; `null`: files only. */
  memoryOf: z.string().nullable().default(null),
});
export type SnapshotInfo = z.output<typeof SnapshotInfo>;

/** Removes every blob that none of these digests leads to, but for young ones. */
export const CollectRequest = z.object({ keep: z.array(Digest).max(1_000_000), graceMs: z.int().optional() });
export const CollectedReport = z.object({ removed: z.int(), freedBytes: z.int(), missing: z.array(Digest) });
