import { readFile } from "node:fs/promises";
import { dirname } from "node:path";
import type { Log } from "@platform/daemon";
import { materializeStatic, parseDigest, StaticIndex, type ArtifactStore } from "@platform/bundle";

import { Encodings } from "./encodings.ts";
import { HotFiles } from "./hot-files.ts";

const MAX_OPEN_BUNDLES = 200;

export interface StaticFile {
  /** Bytes. */
  readonly size: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

/** A bundle ready to serve: which files there are is known before any path reaches the disk. */
export interface StaticBundle {
  readonly folder: string;
  /** Folder around it, which goes away with it. */
  readonly home: string;
  /** Keyed by path relative to `folder`, such as `assets/app.js`. */
  readonly files: ReadonlyMap<string, StaticFile>;
}

/** Unpacked bundles by digest; the least recently used index is forgotten, its files stay on disk. */
export class StaticBundles {
  readonly encodings: Encodings;
  readonly hot = new HotFiles();
  readonly #store: ArtifactStore;
  readonly #bundles = new Map<string, Promise<StaticBundle>>();

  constructor(store: ArtifactStore, log: Log) {
    this.#store = store;
    this.encodings = new Encodings(log);
  }

  /** @throws ArtifactError if the bundle is absent or does not match its digest */
  open(digest: string): Promise<StaticBundle> {
    const bundle = this.#bundles.get(digest) ?? this.#load(digest);
    this.#bundles.delete(digest);
    this.#bundles.set(digest, bundle);
    if (this.#bundles.size > MAX_OPEN_BUNDLES) this.#bundles.delete(this.#bundles.keys().next().value!);
    return bundle;
  }

  /** After a file that the index names was not on disk: the folder was collected meanwhile. */
  forget(digest: string): void {
    this.#bundles.delete(digest);
  }

  async #load(digest: string): Promise<StaticBundle> {
    try {
      const { folder, indexPath } = await materializeStatic(this.#store, parseDigest(digest));
      const home = dirname(indexPath);
      const index = StaticIndex.parse(JSON.parse(await readFile(indexPath, "utf8")));
      return { folder, home, files: new Map(Object.entries(index.files)) };
    } catch (error) {
      this.#bundles.delete(digest);
      throw error;
    }
  }
}
