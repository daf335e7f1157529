import type { Stats } from "node:fs";
import { lstat, realpath, stat } from "node:fs/promises";
import { basename } from "node:path";
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { EntryInfoSchema, FileType, type EntryInfo } from "@platform/guest-protocol";
import type { FileMetadata } from "./metadata.ts";

/** Describes what lies at `path`; a link has the type and mode of what it points to. */
export async function readEntry(path: string, notes: FileMetadata): Promise<EntryInfo> {
  const found = await lstat(path);
  const base = {
    name: basename(path) || "/",
    path,
    size: BigInt(found.size),
    permissions: permissionsOf(found),
    owner: ownerOf(found.uid),
    group: ownerOf(found.gid),
    modifiedTime: timestampFromMs(Math.floor(found.mtimeMs)),
    metadata: await notes.of(path, found),
  };
  if (!found.isSymbolicLink()) {
    return create(EntryInfoSchema, { ...base, type: typeOf(found), mode: found.mode & 0o777 });
  }
  // A link to nowhere points at itself and has no type.
  const symlinkTarget = await realpath(path).catch(() => path);
  const target = await stat(path).catch(() => null);
  return create(EntryInfoSchema, {
    ...base,
    type: target ? typeOf(target) : FileType.UNSPECIFIED,
    mode: target ? target.mode & 0o777 : 0,
    symlinkTarget,
  });
}

function typeOf(found: Stats): FileType {
  if (found.isFile()) return FileType.FILE;
  if (found.isDirectory()) return FileType.DIRECTORY;
  return FileType.UNSPECIFIED;
}

/** A box has one user; ids beyond it come from the template's read-only system. */
function ownerOf(id: number): string {
  if (id === process.getuid?.()) return "user";
  return id === 0 ? "root" : String(id);
}

/** As Go prints a file mode, which envd's clients expect: `-rw-r--r--`, `drwxr-xr-x`, `Lrwxrwxrwx`. */
function permissionsOf(found: Stats): string {
  let kind = "-";
  if (found.isDirectory()) kind = "d";
  else if (found.isSymbolicLink()) kind = "L";
  else if (found.isSocket()) kind = "S";
  else if (found.isFIFO()) kind = "p";
  else if (found.isBlockDevice()) kind = "D";
  else if (found.isCharacterDevice()) kind = "Dc";
  const letters = [..."rwxrwxrwx"].map((letter, at) => (found.mode & (1 << (8 - at)) ? letter : "-"));
  return kind + letters.join("");
}
