import { watch, type FSWatcher, type Stats } from "node:fs";
import { lstat, readdir, stat } from "node:fs/promises";
import { basename, join, relative } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import { EventType } from "@platform/guest-protocol";
import { isTemporary, isUploaded } from "./store.ts";

export interface Change {
  /** Relative to the watched folder. */
  readonly name: string;
  readonly path: string;
  readonly type: EventType;
}

export interface TreeWatch {
  close(): void;
}

/** Each folder costs an inotify watch, of which the kernel grants a user so many. */
const MAX_FOLDERS = 20_000;
/** After a name vanished, its inode may appear under another one: how long to look for it, in ms. */
const RENAME_WINDOW_MS = 20;

interface Known {
  readonly inode: number;
  readonly mtimeMs: number;
  readonly size: number;
  readonly mode: number;
  readonly isFolder: boolean;
  /** Seen as new, with no write reported since. */
  readonly isFresh: boolean;
}

/**
 * Reports changes below a folder as envd does. Node names the entry that changed but not how, so
 * each entry's last known state is kept and compared. One watch per folder: Node's own recursive
 * mode opens one per file.
 *
 * @throws ConnectError `invalid_argument` for what is not a folder, `resource_exhausted`
 */
export async function watchTree(
  root: string,
  recursive: boolean,
  report: (change: Change) => Promise<void>,
): Promise<TreeWatch> {
  const found = await stat(root);
  if (!found.isDirectory()) throw new ConnectError(`path ${root} is not a directory`, Code.InvalidArgument);
  const tree = new Tree(root, recursive, report);
  try {
    await tree.add(root, false);
  } catch (error) {
    tree.close();
    throw error;
  }
  return tree;
}

class Tree implements TreeWatch {
  readonly #root: string;
  readonly #recursive: boolean;
  readonly #report: (change: Change) => Promise<void>;
  readonly #folders = new Map<string, FSWatcher>();
  readonly #known = new Map<string, Known>();
  /** Vanished names by inode, whose new name may still come. */
  readonly #vanished = new Map<number, { path: string; timer: NodeJS.Timeout }>();
  #turn: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(root: string, recursive: boolean, report: (change: Change) => Promise<void>) {
    this.#root = root;
    this.#recursive = recursive;
    this.#report = report;
  }

  close(): void {
    this.#closed = true;
    for (const watcher of this.#folders.values()) watcher.close();
    for (const { timer } of this.#vanished.values()) clearTimeout(timer);
    this.#folders.clear();
    this.#vanished.clear();
    this.#known.clear();
  }

  /** @param isNew whether what lies in the folder already has to be reported: it came after the watch */
  async add(folder: string, isNew: boolean): Promise<void> {
    if (this.#closed || this.#folders.has(folder)) return;
    if (this.#folders.size >= MAX_FOLDERS) {
      throw new ConnectError(`more than ${MAX_FOLDERS} folders to watch`, Code.ResourceExhausted);
    }
    const watcher = watch(folder, (kind, name) => {
      if (name !== null) this.#enqueue(() => this.#look(join(folder, name), kind));
    });
    watcher.on("error", () => this.#drop(folder));
    this.#folders.set(folder, watcher);
    for (const name of await readdir(folder)) {
      const path = join(folder, name);
      if (isTemporary(name)) continue;
      if (isNew) {
        await this.#look(path, "rename");
        continue;
      }
      const found = await lstat(path).catch(() => null);
      if (!found) continue;
      this.#known.set(path, remember(found, false));
      if (this.#recursive && found.isDirectory()) await this.add(path, false);
    }
  }

  /** Events are looked into one by one, so that they are reported in the order they came in. */
  #enqueue(action: () => Promise<void>): void {
    this.#turn = this.#turn.then(action).catch((error: unknown) => {
      // A folder that vanished while it was added, or one too many: what is watched stays watched.
      process.stderr.write(`watch: ${error instanceof Error ? error.message : String(error)}\n`);
    });
  }

  async #look(path: string, kind: string): Promise<void> {
    if (this.#closed || isTemporary(basename(path))) return;
    const found = await lstat(path).catch(() => null);
    const old = this.#known.get(path);
    if (!found) {
      if (old) this.#vanish(path, old);
      return;
    }
    if (!old || old.inode !== found.ino) {
      await this.#appear(path, found, old !== undefined && kind === "rename");
      return;
    }
    if (old.isFolder && kind !== "rename" && (found.mode & 0o7777) === old.mode) return;
    const isWritten = found.mtimeMs !== old.mtimeMs || found.size !== old.size || old.isFresh;
    const isModeOnly = !isWritten || (found.mode & 0o7777) !== old.mode;
    this.#known.set(path, remember(found, kind === "rename" && old.isFresh));
    if (kind !== "change") return;
    await this.#emit(path, isModeOnly ? EventType.CHMOD : EventType.WRITE);
  }

  async #appear(path: string, found: Stats, replaces: boolean): Promise<void> {
    const moved = this.#vanished.get(found.ino);
    if (moved) {
      clearTimeout(moved.timer);
      this.#vanished.delete(found.ino);
      await this.#emit(moved.path, EventType.RENAME);
    }
    const isUpload = isUploaded(found.ino);
    this.#known.set(path, remember(found, !moved && !replaces && !isUpload));
    if (!isUpload || !replaces) await this.#emit(path, EventType.CREATE);
    if (isUpload) await this.#emit(path, EventType.WRITE);
    if (this.#recursive && found.isDirectory()) await this.add(path, true);
  }

  #vanish(path: string, old: Known): void {
    this.#drop(path);
    for (const below of [...this.#known.keys()]) {
      if (below === path || below.startsWith(`${path}/`)) this.#known.delete(below);
    }
    const timer = setTimeout(() => {
      this.#vanished.delete(old.inode);
      this.#enqueue(() => this.#emit(path, EventType.REMOVE));
    }, RENAME_WINDOW_MS);
    this.#vanished.set(old.inode, { path, timer });
  }

  #drop(folder: string): void {
    for (const [path, watcher] of this.#folders) {
      if (path !== folder && !path.startsWith(`${folder}/`)) continue;
      watcher.close();
      this.#folders.delete(path);
    }
  }

  async #emit(path: string, type: EventType): Promise<void> {
    if (!this.#closed) await this.#report({ name: relative(this.#root, path), path, type });
  }
}

const remember = (found: Stats, isFresh: boolean): Known => ({
  inode: found.ino,
  mtimeMs: found.mtimeMs,
  size: found.size,
  mode: found.mode & 0o7777,
  isFolder: found.isDirectory(),
  isFresh,
});
