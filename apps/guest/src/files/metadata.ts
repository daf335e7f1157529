import type { Stats } from "node:fs";
import { lstat, readFile, realpath, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Environment } from "../environment.ts";
import { EnvdError, type Request } from "../http.ts";
import { makeFolders } from "./make-folders.ts";

const HEADER = "x-metadata-";
/** The protocol's limits: of a name, and of all that one file has, in bytes. */
const MAX_KEY = 246;
const MAX_TOTAL = 4096;
/** What the protocol's own store adds to each name. */
const KEY_OVERHEAD = "user.".length;
/** Files with metadata in one box. */
const MAX_FILES = 10_000;

interface Entry {
  readonly path: string;
  readonly inode: number;
  readonly bornMs: number;
  readonly changedMs: number;
  readonly values: Record<string, string>;
}

const toEntry = (path: string, found: Stats, values: Record<string, string>): Entry => ({
  path,
  inode: found.ino,
  bornMs: found.birthtimeMs,
  changedMs: found.mtimeMs,
  values,
});

/**
 * What clients note about files. Node reaches no extended attributes, so the notes are in a file of the
 * home folder. One belongs to a file by its inode, and so through renames; or by its path and time of
 * change, and so in a copy of the whole box.
 */
export class FileMetadata {
  readonly #path: string;
  #loaded: Promise<void> | null = null;
  readonly #byInode = new Map<number, Entry>();
  readonly #byPath = new Map<string, Entry>();
  #turn: Promise<void> = Promise.resolve();

  constructor(home: string) {
    this.#path = join(home, ".local", "state", "file-metadata.json");
  }

  /** @param found of `path` itself, not of what it links to */
  async of(path: string, found: Stats): Promise<Record<string, string>> {
    await (this.#loaded ??= this.#load());
    return this.#find(path, found)?.values ?? {};
  }

  /**
   * Replaces what is noted; nothing at all forgets the file.
   *
   * @throws EnvdError 507 when too many files have notes
   */
  async set(given: string, values: Record<string, string>): Promise<void> {
    await (this.#loaded ??= this.#load());
    const path = await realpath(given);
    const isEmpty = Object.keys(values).length === 0;
    const found = await lstat(path);
    const old = this.#find(path, found) ?? this.#byPath.get(path);
    if (isEmpty && !old) return;
    if (old) this.#forget(old);
    if (!isEmpty) {
      if (this.#byPath.size >= MAX_FILES) await this.#forgetVanished();
      if (this.#byPath.size >= MAX_FILES)
        throw new EnvdError(507, `more than ${MAX_FILES} files have metadata: remove some of them`);
      this.#note(toEntry(path, found, values));
    }
    const saved = this.#turn.then(() => this.#save());
    this.#turn = saved.catch(() => undefined); // Whoever asked is told; the next save writes it all.
    await saved;
  }

  #find(path: string, found: Stats): Entry | undefined {
    const same = this.#byInode.get(found.ino);
    if (same?.bornMs === found.birthtimeMs) return same;
    const copied = this.#byPath.get(path);
    return copied?.changedMs === found.mtimeMs ? copied : undefined;
  }

  #note(entry: Entry): void {
    this.#byInode.set(entry.inode, entry);
    this.#byPath.set(entry.path, entry);
  }

  #forget(entry: Entry): void {
    if (this.#byInode.get(entry.inode) === entry) this.#byInode.delete(entry.inode);
    if (this.#byPath.get(entry.path) === entry) this.#byPath.delete(entry.path);
  }

  async #forgetVanished(): Promise<void> {
    for (const entry of [...this.#byPath.values()])
      if (!(await lstat(entry.path).catch(() => null))) this.#forget(entry);
  }

  async #load(): Promise<void> {
    const text = await readFile(this.#path, "utf8").catch(() => "[]");
    let entries: unknown;
    try {
      entries = JSON.parse(text);
    } catch {
      // The box's own programs may write here too. What cannot be read notes nothing.
      entries = [];
    }
    if (!Array.isArray(entries)) return;
    for (const entry of entries.slice(0, MAX_FILES) as Partial<Entry>[]) {
      if (typeof entry?.path !== "string" || typeof entry.inode !== "number" || !isTexts(entry.values))
        continue;
      this.#note(entry as Entry);
    }
  }

  async #save(): Promise<void> {
    await makeFolders(dirname(this.#path));
    await writeFile(`${this.#path}.new`, JSON.stringify([...this.#byPath.values()]));
    await rename(`${this.#path}.new`, this.#path);
  }
}

const isTexts = (value: unknown): value is Record<string, string> =>
  typeof value === "object" && value !== null && Object.values(value).every((one) => typeof one === "string");

const stores = new WeakMap<Environment, FileMetadata>();

export function metadataOf(environment: Environment): FileMetadata {
  let store = stores.get(environment);
  if (!store) stores.set(environment, (store = new FileMetadata(environment.home)));
  return store;
}

/**
 * What an upload notes about its files.
 *
 * @throws EnvdError 400
 */
export function metadataIn(request: Request): Record<string, string> {
  const values: Record<string, string> = {};
  let total = 0;
  for (const [name, given] of Object.entries(request.headersDistinct)) {
    if (!name.startsWith(HEADER)) continue;
    const key = name.slice(HEADER.length);
    const value = given?.[0] ?? "";
    if (key === "" || key.length > MAX_KEY)
      throw new EnvdError(400, `metadata key '${key}' is too long or empty`);
    if (!/^[\x20-\x7e]*$/.test(value))
      throw new EnvdError(400, `metadata value of '${key}' is not printable ASCII`);
    total += key.length + KEY_OVERHEAD + value.length;
    values[key] = value;
  }
  if (total > MAX_TOTAL) throw new EnvdError(400, `the metadata of one file has at most ${MAX_TOTAL} bytes`);
  return values;
}
