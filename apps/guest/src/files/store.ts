import { createWriteStream } from "node:fs";
import { chmod, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { EnvdError } from "../http.ts";
import { kernelRandom } from "../random.ts";
import { fileFailure } from "./failures.ts";
import { makeFolders } from "./make-folders.ts";

/** What an upload answers per file. */
export interface StoredFile {
  readonly name: string;
  readonly path: string;
  readonly type: "file";
}

/** How long after an upload a watch may still see it arrive, milliseconds. */
const UPLOAD_SEEN_MS = 5_000;
const temporaryName = /^\.[A-Za-z0-9_-]{12}\.upload$/;
const uploads = new Set<number>();

/** To clients an upload writes its file in place: how it comes about here is not theirs to see. */
export const isTemporary = (name: string): boolean => temporaryName.test(name);
/** Whether the file with this inode was uploaded a moment ago. */
export const isUploaded = (inode: number): boolean => uploads.has(inode);

function noteUpload(inode: number): void {
  uploads.add(inode);
  setTimeout(() => uploads.delete(inode), UPLOAD_SEEN_MS).unref();
}

/**
 * Writes `content` beside `path` and renames it into place, so that readers see the old file or the
 * whole new one. Makes missing parent folders; keeps the mode of a file that it replaces, and
 * replaces what a symbolic link points to, not the link.
 *
 * @throws EnvdError
 */
export async function storeFile(path: string, content: Readable | Iterable<Uint8Array>): Promise<StoredFile> {
  try {
    const target = await realpath(path).catch(() => path);
    const old = await stat(target).catch(() => null);
    if (old?.isDirectory()) throw new EnvdError(400, `path '${path}' is a directory`);
    await makeFolders(dirname(target));
    const temporary = join(dirname(target), `.${kernelRandom(9).toString("base64url")}.upload`);
    try {
      await pipeline(content, createWriteStream(temporary, { flags: "wx", highWaterMark: 256 * 1024 }));
      if (old) await chmod(temporary, old.mode & 0o7777);
      noteUpload((await stat(temporary)).ino);
      await rename(temporary, target);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
    return { name: basename(path), path, type: "file" };
  } catch (error) {
    throw fileFailure(error, path);
  }
}
