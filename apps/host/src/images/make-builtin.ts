import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { bootstrap, readSystem, sourceDateEpoch } from "./debian.ts";
import type { ImageDefinition } from "./definitions.ts";
import { addNode, finishTree } from "./finish.ts";
import type { ImageStore, StoredImage } from "./image-store.ts";
import type { OnLine } from "./run-program.ts";

/** Grows when the way in which trees are finished changes. */
const finishVersion = 1;

/** Tells whether an image was built from this very definition. */
export function definitionHash(definition: ImageDefinition, toolchainVersions: string): string {
  const { packages, hasNode, variant } = definition;
  const text = JSON.stringify({
    packages: packages.toSorted(),
    node: hasNode ? toolchainVersions : null,
    ...{ variant, sourceDateEpoch, finishVersion },
  });
  return createHash("sha256").update(text).digest("hex");
}

export const readToolchainVersions = async (toolchain: string): Promise<string> =>
  (await readFile(join(toolchain, "versions.json"), "utf8").catch(() => "unknown")).trim();

export interface MakeContext {
  readonly store: ImageStore;
  readonly toolchain: string;
  readonly signal: AbortSignal;
  readonly onLine: OnLine;
}

/**
 * Makes the tree of a definition and stores it. May be repeated after a crash at any point.
 *
 * @throws ImageError
 */
export async function makeBuiltin(
  definition: ImageDefinition,
  work: string,
  context: MakeContext,
): Promise<StoredImage> {
  const { store, signal, onLine, toolchain } = context;
  const system = await readSystem(signal);
  const root = join(work, "root");
  onLine("system", `installing ${definition.packages.length} packages of Debian ${system.codename}`);
  await bootstrap({
    ...{ system, root, signal, onLine, packages: definition.packages, lockFile: store.lockFile },
    variant: definition.variant,
  });
  if (definition.hasNode) await addNode(root, toolchain);
  await finishTree(root);
  onLine("system", "freezing the tree");
  return store.put(work, { release: `Debian ${system.codename}`, origin: definition.name }, signal);
}
