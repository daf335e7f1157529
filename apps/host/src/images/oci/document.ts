import { createHash } from "node:crypto";
import { arch } from "node:process";
import type { Readable } from "node:stream";
import { Digest } from "@platform/host-api";
import { z } from "zod";
import { ImageError } from "../image-error.ts";

/** What names a blob. @see https://github.com/opencontainers/image-spec/blob/main/descriptor.md */
export const Descriptor = z.object({
  mediaType: z.string(),
  digest: Digest,
  size: z.int().min(0),
  platform: z.object({ architecture: z.string(), os: z.string(), variant: z.string().optional() }).optional(),
  annotations: z.record(z.string(), z.string()).optional(),
});
export type Descriptor = z.output<typeof Descriptor>;

const Index = z.object({ schemaVersion: z.literal(2), manifests: Descriptor.array().min(1).max(200) });
/** More layers than any engine makes. */
const maxLayers = 127;
const Manifest = z.object({
  schemaVersion: z.literal(2),
  config: Descriptor,
  layers: Descriptor.array().max(maxLayers),
});
const texts = z.string().array().nullish();
const Config = z.object({
  architecture: z.string(),
  os: z.string(),
  rootfs: z.object({ type: z.literal("layers"), diff_ids: Digest.array().max(maxLayers) }),
  config: z
    .object({
      User: z.string().nullish(),
      Env: texts,
      Entrypoint: texts,
      Cmd: texts,
      WorkingDir: z.string().nullish(),
      ExposedPorts: z.record(z.string(), z.unknown()).nullish(),
    })
    .nullish(),
});
export type OciConfig = z.output<typeof Config>;

export const indexTypes = [
  "application/vnd.oci.image.index.v1+json",
  "application/vnd.docker.distribution.manifest.list.v2+json",
];
export const manifestTypes = [
  "application/vnd.oci.image.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.v2+json",
];

/** Where an image's parts come from: an uploaded layout or a registry. Nothing of it is trusted. */
export interface ImageParts {
  /** The index or manifest that the reference names. */
  root(signal: AbortSignal): Promise<{ readonly mediaType: string; readonly bytes: Buffer }>;
  /** @throws ImageError `image_invalid`, `image_not_found`, `registry_unavailable` */
  open(descriptor: Descriptor, kind: "manifest" | "blob", signal: AbortSignal): Promise<Readable>;
}

export interface LoadedImage {
  readonly config: OciConfig;
  /** From the lowest; `diffId` is the digest of the layer's bytes once they are uncompressed. */
  readonly layers: readonly { readonly descriptor: Descriptor; readonly diffId: string }[];
  /** Of the manifest. */
  readonly digest: string;
}

const invalid = (detail: string, evidence: Record<string, unknown> = {}) =>
  new ImageError("image_invalid", `${detail} Export or push the image again.`, evidence);

const maxDocumentBytes = 4 * 1024 * 1024;

function parse<T extends z.ZodType>(shape: T, bytes: Buffer, what: string): z.output<T> {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString("utf8"));
  } catch {
    throw invalid(`The ${what} is not JSON.`);
  }
  const parsed = shape.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw invalid(`The ${what} is not valid: ${issue?.path.join(".") ?? ""} ${issue?.message ?? ""}.`);
}

async function readWhole(
  parts: ImageParts,
  descriptor: Descriptor,
  kind: "manifest" | "blob",
  signal: AbortSignal,
): Promise<Buffer> {
  if (descriptor.size > maxDocumentBytes)
    throw invalid(`The ${kind} ${descriptor.digest} is over ${maxDocumentBytes} bytes.`);
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of await parts.open(descriptor, kind, signal)) {
    size += (chunk as Buffer).length;
    if (size > descriptor.size) break;
    chunks.push(chunk as Buffer);
  }
  const bytes = Buffer.concat(chunks);
  assertDigest(descriptor, digestOf(bytes), size);
  return bytes;
}

export const digestOf = (bytes: Buffer): string =>
  `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

/** @throws ImageError `image_invalid` */
export function assertDigest(descriptor: Descriptor, digest: string, size: number): void {
  if (digest === descriptor.digest && size === descriptor.size) return;
  throw invalid(`A part of the image does not have the digest that it is listed with.`, {
    ...{ expected: descriptor.digest, found: digest, expectedBytes: descriptor.size, foundBytes: size },
  });
}

/** As the images name it. */
export const ownArchitecture = arch === "x64" ? "amd64" : arch;

function choose(manifests: readonly Descriptor[]): Descriptor {
  const usable = manifests.filter(
    ({ mediaType, platform }) =>
      [...indexTypes, ...manifestTypes].includes(mediaType) &&
      (platform === undefined || (platform.os === "linux" && platform.architecture === ownArchitecture)),
  );
  // One with its platform said goes before one that says nothing.
  const chosen = usable.find(({ platform }) => platform !== undefined) ?? usable[0];
  if (chosen) return chosen;
  const offered = manifests.map(({ platform }) => `${platform?.os ?? "?"}/${platform?.architecture ?? "?"}`);
  throw new ImageError(
    "image_invalid",
    `The image is not made for linux/${ownArchitecture}, but for ${[...new Set(offered)].join(", ")}. Build it for this processor.`,
    { offered },
  );
}

/** Follows indexes to the one manifest for this machine. @throws ImageError */
export async function loadImage(parts: ImageParts, signal: AbortSignal): Promise<LoadedImage> {
  let { mediaType, bytes } = await parts.root(signal);
  for (let depth = 0; indexTypes.includes(mediaType); depth += 1) {
    if (depth > 3) throw invalid("Indexes name each other in a circle.");
    const chosen = choose(parse(Index, bytes, "index").manifests);
    bytes = await readWhole(parts, chosen, "manifest", signal);
    mediaType = chosen.mediaType;
  }
  if (!manifestTypes.includes(mediaType))
    throw invalid(`"${mediaType.slice(0, 200)}" is no manifest of an OCI image.`);
  const manifest = parse(Manifest, bytes, "manifest");
  const config = parse(Config, await readWhole(parts, manifest.config, "blob", signal), "configuration");
  if (config.os !== "linux" || config.architecture !== ownArchitecture)
    throw new ImageError(
      "image_invalid",
      `The image is made for ${config.os}/${config.architecture}, and this machine is linux/${ownArchitecture}. Build it for this processor.`,
    );
  const { diff_ids: diffIds } = config.rootfs;
  if (diffIds.length !== manifest.layers.length)
    throw invalid(
      `The manifest lists ${manifest.layers.length} layers, the configuration ${diffIds.length}.`,
    );
  const layers = manifest.layers.map((descriptor, at) => ({ descriptor, diffId: diffIds[at]! }));
  return { config, layers, digest: digestOf(bytes) };
}
