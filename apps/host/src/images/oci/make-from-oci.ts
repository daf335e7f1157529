import { chmod, lstat, mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { ImageConfig, ImageLimits, ImageSource } from "@platform/host-api";
import { finishTree, makeFolder } from "../finish.ts";
import { ImageError } from "../image-error.ts";
import type { StoredImage } from "../image-store.ts";
import type { MakeContext } from "../make-builtin.ts";
import { configOf } from "./config.ts";
import { loadImage, type ImageParts } from "./document.ts";
import { applyLayer, type Budget } from "./layer.ts";
import { unpackLayout } from "./layout.ts";
import { assertBootable, resolveInside } from "./needs.ts";
import { openRegistry, type Registry } from "./registry.ts";

type Oci = Extract<ImageSource, { type: "oci" }>;

export interface OciContext extends MakeContext {
  readonly image: Oci["image"];
  readonly limits: ImageLimits;
  readonly registries: readonly Registry[];
  /** Path of the upload with this key, or `null`. */
  readonly upload: (key: string) => Promise<string | null>;
}

/**
 * Makes an image's tree of its layers and stores it.
 *
 * @throws ImageError
 */
export async function makeFromOci(
  work: string,
  context: OciContext,
): Promise<{ readonly stored: StoredImage; readonly config: ImageConfig }> {
  const { limits, signal, onLine, store } = context;
  const [root, parts] = [join(work, "root"), await partsOf(work, context)];
  const image = await loadImage(parts, signal);
  const config = configOf(image.config);
  onLine("system", `image ${image.digest.slice(0, 19)} with ${image.layers.length} layers`);
  await mkdir(root, { mode: 0o755 });
  const budget: Budget = { limitBytes: limits.diskBytes, bytes: 0, files: 0 };
  for (const [index, layer] of image.layers.entries()) {
    const { digest, size } = layer.descriptor;
    onLine("system", `layer ${index + 1} of ${image.layers.length}: ${digest.slice(0, 19)}, ${size} bytes`);
    await applyLayer(
      await parts.open(layer.descriptor, "blob", signal),
      layer,
      { root, work },
      budget,
      signal,
    );
  }
  await rm(join(work, "layout"), { recursive: true, force: true });
  await takeOver(root, await ownerOf(root, config.user), signal);
  if (config.workdir !== null && !(await resolveInside(root, config.workdir)))
    await makeFolder(root, config.workdir, 0o755);
  await finishTree(root);
  await assertBootable(root);
  for (const line of remarks(config)) onLine("system", line);
  onLine("system", "freezing the tree");
  const release = /^PRETTY_NAME="?([^"\n]*)/m.exec(await readInside(root, "/etc/os-release"))?.[1] ?? null;
  return { stored: await store.put(work, { release, origin: `image ${image.digest}` }, signal), config };
}

async function partsOf(
  work: string,
  { image, limits, registries, upload, signal }: OciContext,
): Promise<ImageParts> {
  if (image.type === "registry") return openRegistry(image.reference, registries);
  const archive = await upload(image.key);
  if (archive === null)
    throw new ImageError(
      "image_not_found",
      "The uploaded image is gone: it is kept for a day. Upload it again.",
    );
  return unpackLayout(archive, join(work, "layout"), limits.diskBytes, signal);
}

async function readInside(root: string, path: string): Promise<string> {
  const found = await resolveInside(root, path);
  if (!found || !(await lstat(found)).isFile() || (await lstat(found)).size > 1024 * 1024) return "";
  return readFile(found, "utf8");
}

/** Number of the user whose program the image runs; root where it names none, or one that it does not know. */
async function ownerOf(root: string, user: string | null): Promise<number> {
  const [name = ""] = (user ?? "").split(":");
  const known = (await readInside(root, "/etc/passwd"))
    .split("\n")
    .find((line) => line.startsWith(`${name}:`));
  const id = /^\d+$/.test(name) ? Number(name) : Number(known?.split(":")[2] ?? NaN);
  return Number.isInteger(id) && id > 0 && id <= 65_535 ? id : 0;
}

/** Stays its owner's: hashes of passwords are of no use to a program. */
const closed = /^etc\/g?shadow/;

/**
 * Removes what is neither file, folder nor link. Files of the image's user become the box's user's, who is
 * "others" to a shared tree: what their owner may read or run, others may too.
 */
async function takeOver(root: string, owner: number, signal: AbortSignal): Promise<void> {
  const visit = async (folder: string): Promise<void> => {
    signal.throwIfAborted();
    for (const entry of await readdir(join(root, folder), { withFileTypes: true })) {
      const name = join(folder, entry.name);
      const path = join(root, name);
      if (!entry.isFile() && !entry.isDirectory() && !entry.isSymbolicLink()) {
        await rm(path);
        continue;
      }
      if (entry.isDirectory()) await visit(name);
      if (entry.isSymbolicLink() || closed.test(name)) continue;
      const { uid, mode } = await lstat(path);
      const shared = mode | ((mode & 0o500) >> 6);
      if (uid === owner && shared !== mode) await chmod(path, shared & 0o7777);
    }
  };
  await visit("");
}

function* remarks(config: ImageConfig): Generator<string> {
  if (config.user === null || /^(root|0)(:|$)/.test(config.user))
    yield 'the image runs as root; in a sandbox its programs run as the user "user", who cannot change the system';
  else yield `the image's user "${config.user}" is the user "user" of a sandbox`;
  if (config.startCommand === null) yield "the image starts only a shell: sandboxes start no service of it";
}
