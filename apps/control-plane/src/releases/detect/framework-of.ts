import { frameworks, type Framework } from "@vercel/frameworks";
import { detectFramework } from "@vercel/fs-detectors";
import { TreeFilesystem, type Tree } from "./tree.ts";

/** Their literal types say "readonly" where the detector's own says "mutable"; it changes nothing. */
const known = frameworks as unknown as readonly Framework[];

/** @returns the slug of the framework by the detector's own order of preference */
export const frameworkOf = (tree: Tree, isWanted: (slug: string) => boolean): Promise<string | null> =>
  detectFramework({
    fs: new TreeFilesystem(tree),
    frameworkList: known.filter(({ slug }) => slug !== null && isWanted(slug)),
    useExperimentalFrameworks: false,
  });
