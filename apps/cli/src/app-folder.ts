import { createReadStream, createWriteStream, lstatSync, readdirSync, statSync, type Dirent } from "node:fs";
import { join, relative, sep } from "node:path";
import { Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { pack } from "tar-stream";
import { linkFile, stateFolder } from "./brand.ts";
import { CliError } from "./failure.ts";

/** Left out at any depth. */
const alwaysExcluded = [
  ".git",
  stateFolder,
  linkFile,
  ".env",
  ".env.*",
  "node_modules",
  ".venv",
  "coverage",
  "dist",
];
/** What one app folder may hold; a larger one is a mistake, such as a home folder. */
const maxFiles = 50_000;
const maxBytes = 512 * 1024 * 1024;

/** Of every entry: an archive of the same files is the same bytes, so that little of it needs to be sent again. */
const epoch = new Date(0);

export interface PackedFolder {
  readonly files: number;
  readonly sizeBytes: number;
  readonly tar: Buffer;
}

/** Of a folder that is never whole in memory; with its headers it fits into an upload. */
const maxStreamedBytes = 3.9 * 1024 ** 3;

interface Entry {
  readonly path: string;
  readonly file: string;
}

/** @throws CliError FOLDER_NOT_FOUND */
export function assertFolder(folder: string): void {
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory()) return;
  throw new CliError("FOLDER_NOT_FOUND", `${folder} is no folder.`, "Give the folder that holds the app.");
}

/**
 * Packs a folder as tar: names sorted, links and special files left out.
 *
 * @param excluded names, or paths from the folder's root, added to the standard ones; `*` stands for
 *   any characters but a slash
 * @throws CliError FOLDER_NOT_FOUND, FOLDER_EMPTY or FOLDER_TOO_LARGE
 */
export async function packFolder(folder: string, excluded: readonly string[] = []): Promise<PackedFolder> {
  const chunks: Buffer[] = [];
  const collect = new Writable({
    write(chunk: Buffer, _encoding, done) {
      chunks.push(chunk);
      done();
    },
  });
  const packed = await packInto(folder, excluded, collect, maxBytes);
  return { ...packed, tar: Buffer.concat(chunks) };
}

/** The same archive as a file, for folders of any size. @throws CliError as `packFolder` */
export const packFolderTo = (folder: string, excluded: readonly string[], path: string) =>
  packInto(folder, excluded, createWriteStream(path, { flags: "wx", mode: 0o600 }), maxStreamedBytes);

async function packInto(
  folder: string,
  excluded: readonly string[],
  sink: Writable,
  limitBytes: number,
): Promise<{ files: number; sizeBytes: number }> {
  assertFolder(folder);
  const entries = listFiles(folder, toMatcher([...alwaysExcluded, ...excluded]));
  if (entries.length === 0) {
    throw new CliError(
      "FOLDER_EMPTY",
      `${folder} holds no file to send.`,
      "Look at sync.exclude in the app manifest.",
    );
  }
  const archive = pack();
  let sizeBytes = 0;
  const produce = async () => {
    for (const entry of entries) {
      const { mode, size } = lstatSync(entry.file);
      sizeBytes += size;
      if (sizeBytes > limitBytes)
        throw tooLarge(folder, `more than ${Math.floor(limitBytes / 1024 / 1024)} MiB`);
      const header = { name: entry.path, mode: mode & 0o111 ? 0o755 : 0o644, mtime: epoch, size };
      await pipeline(createReadStream(entry.file), archive.entry(header));
    }
    archive.finalize();
  };
  const written = pipeline(archive, sink);
  written.catch(() => undefined); // Awaited below; until then it must not count as unhandled.
  try {
    await produce();
  } catch (error) {
    archive.destroy(error as Error);
    await written.catch(() => undefined); // It ends with the same failure, or with the one that led to it.
    throw error;
  }
  await written;
  return { files: entries.length, sizeBytes };
}

function listFiles(root: string, isExcluded: (path: string) => boolean): Entry[] {
  const entries: Entry[] = [];
  const visit = (folder: string) => {
    for (const item of readdirSync(folder, { withFileTypes: true }).sort(byName)) {
      const file = join(folder, item.name);
      const path = relative(root, file).split(sep).join("/");
      if (isExcluded(path)) continue;
      if (item.isDirectory()) visit(file);
      else if (item.isFile()) entries.push({ path, file });
      if (entries.length > maxFiles) throw tooLarge(root, `more than ${maxFiles} files`);
    }
  };
  visit(root);
  return entries;
}

const byName = (a: Dirent, b: Dirent): number => (a.name < b.name ? -1 : 1);

function tooLarge(folder: string, what: string): CliError {
  return new CliError(
    "FOLDER_TOO_LARGE",
    `${folder} holds ${what}.`,
    "Name what is not needed in sync.exclude of the app manifest.",
  );
}

function toMatcher(patterns: readonly string[]): (path: string) => boolean {
  const rules = patterns.map((pattern) => {
    const trimmed = pattern.replace(/^\.?\//, "").replace(/\/(\*\*)?$/, "");
    const source = trimmed.split("*").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    return { hasSlash: trimmed.includes("/"), test: new RegExp(`^${source.join("[^/]*")}$`) };
  });
  return (path) => {
    const name = path.slice(path.lastIndexOf("/") + 1);
    return rules.some((rule) => rule.test.test(rule.hasSlash ? path : name));
  };
}
