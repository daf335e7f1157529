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
