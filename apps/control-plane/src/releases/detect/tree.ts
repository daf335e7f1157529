import { DetectorFilesystem } from "@vercel/fs-detectors";

type Entry = Awaited<ReturnType<DetectorFilesystem["readdir"]>>[number];

/** The app's files below its root, without installed packages. Paths have no leading slash. */
export interface Tree {
  readonly paths: ReadonlySet<string>;
  /** @returns undefined only if there is no such file */
  read(path: string): Promise<string | undefined>;
}

/** Characters: the detector runs regular expressions over these files, which strangers wrote. */
const longestRead = 64 * 1024;
const packageName = /^(@[\w.~-]{1,100}\/)?[\w.~-]{1,214}$/;
const plainVersion = /^[\w.^~<>=|*@:/ +-]{1,100}$/;

/** What the detector needs of a package.json, in a form in which its expressions end soon. */
function reduced(text: string): string {
  let parsed: Record<string, unknown>;
  try {
    parsed = JSON.parse(text) as Record<string, unknown>;
  } catch {
    return "{}"; // Refused with its line elsewhere.
  }
  const names = (field: unknown) =>
    Object.fromEntries(
      Object.entries((field ?? {}) as Record<string, unknown>)
        .filter(([name]) => packageName.test(name))
        .map(([name, version]) => [name, plainVersion.test(String(version)) ? String(version) : "*"]),
    );
  const { dependencies, devDependencies } = parsed;
  return JSON.stringify(
    { dependencies: names(dependencies), devDependencies: names(devDependencies) },
    null,
    1,
  );
}

/** The files of a tree as the framework detector reads them. */
export class TreeFilesystem extends DetectorFilesystem {
  readonly #tree: Tree;
  readonly #folder: string;

  constructor(tree: Tree, folder = "") {
    super();
    this.#tree = tree;
    this.#folder = folder;
  }

  #path(name: string): string {
    return [this.#folder, name.replace(/^(\.?\/)+/, "")].filter((part) => part !== "").join("/");
  }

  protected override async _hasPath(name: string): Promise<boolean> {
    const path = this.#path(name);
    return this.#tree.paths.has(path) || [...this.#tree.paths].some((one) => one.startsWith(`${path}/`));
  }

  protected override async _readFile(name: string): Promise<Buffer> {
    const path = this.#path(name);
    const text = (await this.#tree.read(path)) ?? "";
    return Buffer.from(path.endsWith("package.json") ? reduced(text) : text.slice(0, longestRead));
  }

  protected override async _isFile(name: string): Promise<boolean> {
    return this.#tree.paths.has(this.#path(name));
  }

  protected override async _readdir(name: string): Promise<Entry[]> {
    const folder = this.#path(name);
    const prefix = folder === "" ? "" : `${folder}/`;
    const found = new Map<string, "file" | "dir">();
    for (const path of this.#tree.paths) {
      if (!path.startsWith(prefix)) continue;
      const [first, ...rest] = path.slice(prefix.length).split("/");
      if (first) found.set(first, rest.length > 0 ? "dir" : "file");
    }
    return [...found].map(([entry, type]) => ({ name: entry, path: `${prefix}${entry}`, type }));
  }

  protected override _chdir(name: string): DetectorFilesystem {
    return new TreeFilesystem(this.#tree, this.#path(name));
  }
}

/** A tree out of memory. */
export function treeOf(files: Readonly<Record<string, string>>): Tree {
  return { paths: new Set(Object.keys(files)), read: async (path) => files[path] };
}
