import { z } from "zod";
import { BoxKey, Digest, IsolationClass } from "./box.ts";

/**
 * An *image* is the root file system of a template: a read-only tree, named by the digest of its
 * content. `host` is none: it stands for the machine's own system, read-only.
 */
export const hostTemplate = "host";

/** Name of an image that the platform itself defines, such as `standard`. */
export const ImageName = z.string().regex(/^[a-z][a-z0-9-]{1,39}$/);

/** What a box's template is: `host`, the name of a built-in image, or the digest of any image. */
export const ImageReference = z.union([Digest, ImageName]);
export type ImageReference = z.output<typeof ImageReference>;

/** What a new image must do in a real box before it may be used. */
export const ImageCheck = z.object({
  /** Started as a service before `readyCommand`; `null`: nothing is started. */
  startCommand: z.string().max(65_536).nullable().default(null),
  /** Repeated until it ends with 0; `null`: the box's own answers are enough. */
  readyCommand: z.string().max(65_536).nullable().default(null),
  env: z.record(z.string(), z.string()).default({}),
  workdir: z.string().startsWith("/").default("/workspace"),
  timeoutMs: z.int().min(1_000).max(900_000).default(120_000),
});
export type ImageCheck = z.output<typeof ImageCheck>;

export const ImageLimits = z.object({
  /** Most bytes that the build may add. */
  diskBytes: z
    .int()
    .min(1024 * 1024)
    .default(10 * 1024 ** 3),
  memoryBytes: z
    .int()
    .min(64 * 1024 * 1024)
    .default(2 * 1024 ** 3),
  /** Most time for all steps together. */
  timeoutMs: z.int().min(1_000).max(7_200_000).default(1_800_000),
});
export type ImageLimits = z.output<typeof ImageLimits>;

/** A shell command; `upload`: a tar, plain or by gzip, whose files it finds in the folder that `FILES` names. */
export const ImageStep = z.union([
  z.string().min(1).max(65_536),
  z.object({ run: z.string().min(1).max(65_536), upload: BoxKey }),
]);
export type ImageStep = z.output<typeof ImageStep>;

/** How an image comes to be. */
export const ImageSource = z.discriminatedUnion("type", [
  /** A definition of the platform's own, made of the machine's Debian release. */
  z.object({ type: z.literal("builtin"), name: ImageName }),
  /** Commands, run as root of a writable copy of `from`. */
  z.object({
    type: z.literal("steps"),
    from: ImageReference,
    steps: z.array(ImageStep).max(200),
    env: z.record(z.string(), z.string()).default({}),
    workdir: z.string().startsWith("/").default("/"),
  }),
  /** An image of the Open Container Initiative's format, and commands on top of it. */
  z.object({
    type: z.literal("oci"),
    image: z.discriminatedUnion("type", [
      /** An image layout that was uploaded to this host. */
      z.object({ type: z.literal("upload"), key: BoxKey }),
      /** Such as `node:22`, from a registry that this host's operator configured. */
      z.object({ type: z.literal("registry"), reference: z.string().min(1).max(500) }),
    ]),
    steps: z.array(ImageStep).max(200).default([]),
    env: z.record(z.string(), z.string()).default({}),
  }),
]);
export type ImageSource = z.output<typeof ImageSource>;

export const ImageBuildSpec = z.object({
  source: ImageSource,
  check: ImageCheck.prefault({}),
  limits: ImageLimits.prefault({}),
  minimumIsolation: IsolationClass.default("namespaces"),
});
export type ImageBuildSpec = z.input<typeof ImageBuildSpec>;
export type ResolvedImageBuildSpec = z.output<typeof ImageBuildSpec>;

/** `snapshotting`: the finished tree is being frozen. `certifying`: a box is being started from it. */
export const imageBuildStates = [
  "queued",
  "building",
  "snapshotting",
  "certifying",
  "ready",
  "failed",
  "cancelled",
] as const;
export const ImageBuildState = z.enum(imageBuildStates);
export type ImageBuildState = z.output<typeof ImageBuildState>;

export const ImageFailure = z.object({
  reason: z.enum([
    "not_root",
    "tool_missing",
    "unsupported_system",
    "packages_unavailable",
    "base_missing",
    "image_invalid",
    "image_not_found",
    "registry_unavailable",
    "requirements_missing",
    "step_failed",
    "timeout",
    "out_of_memory",
    "disk_full",
    "boot_failed",
    "command_failed",
    "not_ready",
    "isolation_unavailable",
    "internal",
  ]),
  detail: z.string().describe("What failed, why, and what to do"),
  evidence: z.record(z.string(), z.unknown()).default({}),
});
export type ImageFailure = z.output<typeof ImageFailure>;

/** A box that was really started from the image. */
export const ImageCertificate = z.object({
  driver: z.string(),
  level: IsolationClass,
  bootMs: z.number().nullable(),
  at: z.string(),
  /** First line that each command printed, such as `node` → `v24.1.0`. */
  versions: z.record(z.string(), z.string()),
});
export type ImageCertificate = z.output<typeof ImageCertificate>;

/** What an imported image says of itself, as far as a box can honour it. */
export const ImageConfig = z.object({
  env: z.record(z.string(), z.string()),
  /** `null`: it says nothing, or the root folder. */
  workdir: z.string().startsWith("/").nullable(),
  /** Its entry point and arguments as a shell command; `null` where that is only a shell. */
  startCommand: z.string().nullable(),
  /** Whose program it is there; in a box its files are the box's own user's. */
  user: z.string().nullable(),
  /** TCP ports that it announces. */
  ports: z.array(z.int()),
});
export type ImageConfig = z.output<typeof ImageConfig>;

export const ImageUpload = z.object({ key: BoxKey, sizeBytes: z.number(), createdAt: z.string() });
export type ImageUpload = z.output<typeof ImageUpload>;

export const ImageBuild = z.object({
  key: BoxKey,
  state: ImageBuildState,
  source: z.enum(["builtin", "steps", "oci"]),
  /** Of an imported image, once it was read. */
  config: ImageConfig.nullable().default(null),
  name: ImageName.nullable(),
  digest: Digest.nullable(),
  failure: ImageFailure.nullable(),
  createdAt: z.string(),
  startedAt: z.string().nullable(),
  finishedAt: z.string().nullable(),
  sizeBytes: z.number().nullable(),
  certificate: ImageCertificate.nullable(),
});
export type ImageBuild = z.output<typeof ImageBuild>;

export const ImageLogLine = z.object({
  seq: z.int(),
  at: z.string(),
  stream: z.enum(["system", "stdout", "stderr"]),
  line: z.string(),
});
export type ImageLogLine = z.output<typeof ImageLogLine>;

export const ImageInfo = z.object({
  /** Of a built-in image; else `null`. */
  name: ImageName.nullable(),
  /** `null` while a built-in image was never built here. */
  digest: Digest.nullable(),
  /** Whether the definition changed since it was built. */
  isOutdated: z.boolean(),
  sizeBytes: z.number().nullable(),
  createdAt: z.string().nullable(),
  release: z.string().nullable().describe("Such as Debian bookworm"),
  certificate: ImageCertificate.nullable(),
  /** The newest build of this name. */
  build: ImageBuild.nullable(),
  /** Programs that boxes of it find. */
  tools: z.array(z.string()),
});
export type ImageInfo = z.output<typeof ImageInfo>;

export const ImageReport = z.object({
  /** `null`: images can be built on this machine; else why not, and what to do. */
  whyNoBuilds: z.string().nullable(),
  images: z.array(ImageInfo),
});
export type ImageReport = z.output<typeof ImageReport>;
