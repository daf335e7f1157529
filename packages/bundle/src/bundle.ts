import { z } from "zod";
import { damagedFiles } from "./contents.ts";
import { Digest, digestOfFile } from "./digest.ts";
import { ArtifactMissingError, BundleTamperedError, NotABundleError } from "./errors.ts";
import { freezeFolder, type FreezeOptions } from "./freeze.ts";
import { addReferrer, type SbomPart, sbomType } from "./referrers.ts";
import { addReference, type ArtifactStore, manifestType } from "./store.ts";
import { type UnpackOptions, unpackBlob } from "./unpack.ts";

const configType = "application/vnd.oci.image.config.v1+json";
const layerType = "application/vnd.oci.image.layer.v1.tar";
const contentsType = "application/jsonl";

const descriptor = <T extends string>(mediaType: T) =>
  z.object({ mediaType: z.literal(mediaType), digest: Digest, size: z.int().min(0) });

export const EnvDeclaration = z.object({
  name: z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/),
  scope: z.enum(["build", "run"]),
  required: z.boolean(),
});
export type EnvDeclaration = z.output<typeof EnvDeclaration>;

/** What a release declares about itself. Names of settings, never their values. */
export const BundleDeclaration = z.object({
  kind: z.enum(["static", "dynamic"]),
  startCommand: z.string().nullable(),
  port: z.int().min(1).max(65_535).nullable(),
  healthCheckPath: z.string().nullable(),
  env: z.array(EnvDeclaration),
});
export type BundleDeclaration = z.output<typeof BundleDeclaration>;

const partOf = <T extends string>(mediaType: T) => descriptor(mediaType).nullable().default(null);

export const BundleConfig = z.object({
  architecture: z.string(),
  os: z.literal("linux"),
  config: z.object({
    Cmd: z.array(z.string()).optional(),
    ExposedPorts: z.record(z.string(), z.object({})).optional(),
    WorkingDir: z.literal("/"),
  }),
  rootfs: z.object({ type: z.literal("layers"), diff_ids: z.tuple([Digest]) }),
  /** Beyond the image format, whose readers ignore it. */
  release: BundleDeclaration.extend({
    /** The frozen files it was built from; absent in bundles of older versions, as are the other two. */
    source: Digest.nullable().default(null),
    /** Packages that were installed for it, as CycloneDX. */
    sbom: partOf(sbomType),
    /** Every file and link of the layer with its digest, a JSON object a line. */
    contents: partOf(contentsType),
  }),
});
export type BundleConfig = z.output<typeof BundleConfig>;

export const BundleManifest = z.object({
  schemaVersion: z.literal(2),
  mediaType: z.literal(manifestType),
  config: descriptor(configType),
  layers: z.tuple([descriptor(layerType)]),
});
export type BundleManifest = z.output<typeof BundleManifest>;

export interface BuildBundleOptions extends BundleDeclaration, Omit<FreezeOptions, "onContent"> {
  /** What it was built from: another source is another bundle, also where it gives the same files. */
  source?: Digest | null;
  /** Blob of a CycloneDX document, in the store already. */
  sbom?: Digest | null;
}

export interface BuiltBundle {
  /** Digest of the manifest: it covers every byte of the bundle. */
  digest: Digest;
  /** Manifest, config and layer together. */
  sizeBytes: number;
  files: number;
  /** Whether `index.html` is at the top. */
  hasIndexHtml: boolean;
}

const byNameThenScope = (a: EnvDeclaration, b: EnvDeclaration) =>
  a.name < b.name ? -1 : a.name > b.name ? 1 : a.scope < b.scope ? -1 : a.scope > b.scope ? 1 : 0;

/** Members in a fixed order: the text is what is digested. */
function renderConfig(
  declared: BundleDeclaration,
  layer: Digest,
  parts: Pick<BundleConfig["release"], "source" | "sbom" | "contents">,
): string {
  const { source, sbom, contents } = parts;
  const env = declared.env
    .map(({ name, scope, required }) => ({ name, scope, required }))
    .sort(byNameThenScope);
  const twice = env.find((item, at) => at > 0 && byNameThenScope(env[at - 1]!, item) === 0);
  if (twice) throw new NotABundleError(`The setting ${twice.name} (${twice.scope}) is declared twice.`);
  const { kind, startCommand, port, healthCheckPath } = declared;
  const config: BundleConfig = {
    // Static files run nowhere; native modules of a dynamic app fit one processor only.
    architecture: kind === "static" ? "unknown" : process.arch === "x64" ? "amd64" : process.arch,
    os: "linux",
    config: {
      ...(startCommand === null ? {} : { Cmd: ["/bin/sh", "-c", startCommand] }),
      ...(port === null ? {} : { ExposedPorts: { [`${port}/tcp`]: {} } }),
      WorkingDir: "/",
    },
    rootfs: { type: "layers", diff_ids: [layer] },
    release: { kind, startCommand, port, healthCheckPath, env, source, sbom, contents },
  };
  return JSON.stringify(config);
}

/**
 * Builds a bundle: an OCI image of one layer. Equal content and equal declared fields give an equal
 * digest on every machine of one architecture.
 *
 * @throws SymlinkEscapesError, SourceChangedError, SourceRefusedError, SecretFoundError, NotABundleError
 */
export async function buildBundle(
  store: ArtifactStore,
  folder: string,
  options: BuildBundleOptions,
): Promise<BuiltBundle> {
  const declared = BundleDeclaration.safeParse(options);
  if (!declared.success)
    throw new NotABundleError("The bundle's declaration is not valid.", { cause: declared.error });
  options.search?.file("the start command")(Buffer.from(options.startCommand ?? ""));
  const lines: string[] = [];
  const { digest, sizeBytes, files, hasIndexHtml } = await freezeFolder(store, folder, {
    ...options,
    onContent: (line) => lines.push(`${JSON.stringify(line)}\n`),
  });
  const listed = await store.put(Buffer.from(lines.join("")));
  const sbom: SbomPart | null = options.sbom
    ? { mediaType: sbomType, digest: options.sbom, size: await store.sizeOf(options.sbom) }
    : null;
  const contents = { mediaType: contentsType, digest: listed.digest, size: listed.sizeBytes } as const;
  const config = await store.put(
    Buffer.from(renderConfig(declared.data, digest, { source: options.source ?? null, sbom, contents })),
  );
  const text = JSON.stringify({
    schemaVersion: 2,
    mediaType: manifestType,
    config: { mediaType: configType, digest: config.digest, size: config.sizeBytes },
    layers: [{ mediaType: layerType, digest, size: sizeBytes }],
  } satisfies BundleManifest);
  const manifest = await store.put(Buffer.from(text));
  await addReference(store, manifest);
  if (sbom) await addReferrer(store, manifest, sbom);
  return {
    digest: manifest.digest,
    sizeBytes: sizeBytes + config.sizeBytes + manifest.sizeBytes + listed.sizeBytes + (sbom?.size ?? 0),
    files,
    hasIndexHtml,
  };
}

export interface Bundle {
  manifest: BundleManifest;
  config: BundleConfig;
}

/**
 * Reads and checks manifest and config, and that the bill of materials and the list of files are those of the
 * build; the layer is not looked at.
 * @throws ArtifactMissingError, BundleTamperedError, NotABundleError
 */
export async function readBundle(store: ArtifactStore, digest: Digest): Promise<Bundle> {
  const manifest = await store.readJson(digest, BundleManifest, "manifest");
  const configDigest = manifest.config.digest;
  if (!(await store.has(configDigest))) throw new BundleTamperedError("config", configDigest, null);
  const config = await store.readJson(configDigest, BundleConfig, "config");
  if (config.rootfs.diff_ids[0] !== manifest.layers[0].digest)
    throw new NotABundleError(`${digest} names one layer in its manifest and another in its config.`);
  const { sbom, contents } = config.release;
  for (const [role, part] of [["sbom", sbom] as const, ["list of files", contents] as const]) {
    if (part === null) continue;
    const found = await digestOfFile(store.blobPath(part.digest));
    if (found?.digest !== part.digest)
      throw new BundleTamperedError(role, part.digest, found?.digest ?? null);
  }
  return { manifest, config };
}

/** Adds to the failure which files of the layer differ. */
async function named(store: ArtifactStore, { config }: Bundle, error: unknown): Promise<unknown> {
  const list = config.release.contents;
  if (!(error instanceof BundleTamperedError) || error.role !== "layer" || error.found === null || !list)
    return error;
  const files = await damagedFiles(store, error.wanted, list.digest);
  return new BundleTamperedError("layer", error.wanted, error.found, files);
}

/** @throws BundleTamperedError naming the first blob that differs, and its files; ArtifactMissingError, NotABundleError */
export async function verifyBundle(store: ArtifactStore, digest: Digest): Promise<Bundle> {
  const bundle = await readBundle(store, digest);
  const wanted = bundle.manifest.layers[0].digest;
  const found = await digestOfFile(store.blobPath(wanted));
  if (found?.digest !== wanted)
    throw await named(store, bundle, new BundleTamperedError("layer", wanted, found?.digest ?? null));
  return bundle;
}

/** Gives a bundle's layer to `use`, its other parts being genuine. */
export async function withLayer<T>(
  store: ArtifactStore,
  digest: Digest,
  use: (layer: Digest) => Promise<T>,
): Promise<T> {
  const bundle = await readBundle(store, digest);
  const layer = bundle.manifest.layers[0].digest;
  try {
    return await use(layer);
  } catch (error) {
    if (error instanceof ArtifactMissingError) throw new BundleTamperedError("layer", layer, null);
    throw await named(store, bundle, error);
  }
}

/**
 * Unpacks a bundle that is genuine: manifest, config, bill of materials and list of files are checked before,
 * the layer while it is unpacked beside `into`, which appears only if every digest is right.
 */
export async function unpackBundle(
  store: ArtifactStore,
  digest: Digest,
  into: string,
  options: UnpackOptions = {},
): Promise<void> {
  await withLayer(store, digest, (layer) => unpackBlob(store, layer, into, { ...options, role: "layer" }));
}
