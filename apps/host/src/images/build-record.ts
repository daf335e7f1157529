import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { BoxKey, ImageBuild, ImageBuildSpec, type ResolvedImageBuildSpec } from "@platform/host-api";
import { z } from "zod";

/** One build as it lies on disk. May hold secrets in its environment: mode 0600. */
const Record = z.object({ build: ImageBuild, spec: ImageBuildSpec });
export interface BuildRecord {
  readonly build: ImageBuild;
  readonly spec: ResolvedImageBuildSpec;
}

/** The builds of one daemon, one folder each. */
export class BuildRecords {
  readonly #folder: string;
  constructor(folder: string) {
    this.#folder = folder;
  }

  logPath = (key: string): string => join(this.#folder, BoxKey.parse(key), "log.jsonl");

  async save(record: BuildRecord): Promise<void> {
    const folder = join(this.#folder, BoxKey.parse(record.build.key));
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const path = join(folder, "build.json");
    const file = await open(`${path}.new`, "w", 0o600);
    try {
      await file.writeFile(JSON.stringify(record));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(`${path}.new`, path);
  }

  async load(): Promise<BuildRecord[]> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const records: BuildRecord[] = [];
    for (const key of await readdir(this.#folder)) {
      try {
        records.push(Record.parse(JSON.parse(await readFile(join(this.#folder, key, "build.json"), "utf8"))));
      } catch (error) {
        // A crash before the first write leaves an empty folder: nobody was told of that build.
        if ((error as NodeJS.ErrnoException).code === "ENOENT") await this.remove(key);
        else throw new Error(`The record of image build ${key} cannot be read.`, { cause: error });
      }
    }
    return records.sort((a, b) => a.build.createdAt.localeCompare(b.build.createdAt));
  }

  remove = (key: string): Promise<void> => rm(join(this.#folder, key), { recursive: true, force: true });
}
