import { createHash } from "node:crypto";
import { chmod, chown, lstat, mkdir, readdir, rename, rm, utimes } from "node:fs/promises";
import { join } from "node:path";
import { PassThrough, Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { extract } from "tar-stream";
import { ImageError } from "../image-error.ts";
import { runProgram } from "../run-program.ts";
import { assertDigest, type Descriptor } from "./document.ts";

/** What one build may still write. */
export interface Budget {
  readonly limitBytes: number;
  bytes: number;
  files: number;
}
const maxFiles = 2_000_000;
/** Owners that a box's range of ids has a place for. */
const maxId = 65_535;

const whiteout = ".wh.";
const opaque = ".wh..wh..opq";

const invalid = (detail: string, evidence: Record<string, unknown> = {}) =>
  new ImageError("image_invalid", `${detail} Export or build the image again.`, evidence);

/** What a layer says beside its files. Paths are relative, without a leading slash. */
interface LayerNotes {
  readonly removed: string[];
  readonly emptied: string[];
  /** Folders that the layer has an entry of; others it only passes through. */
  readonly folders: Set<string>;
}

const compressions = {
  gzip: /[+.]gzip$/,
  zstd: /\+zstd$/,
  none: /(^application\/vnd\.oci\.image\.layer\.v1\.tar|\.tar)$/,
};

function decompressor(descriptor: Descriptor): Transform {
  const { mediaType } = descriptor;
  if (compressions.gzip.test(mediaType)) return createGunzip();
  if (compressions.zstd.test(mediaType)) return createZstdDecompress();
  if (compressions.none.test(mediaType)) return new PassThrough();
  throw invalid(`A layer has the unknown type "${mediaType.slice(0, 200)}".`);
}

/** Passes everything on; what has passed is known at the end. */
function measured(
  onEnd: (digest: string, bytes: number) => void,
  onBytes?: (count: number) => void,
): Transform {
  const hash = createHash("sha256");
  let bytes = 0;
  return new Transform({
    highWaterMark: 1024 * 1024,
    transform: (chunk: Buffer, _encoding, done) => {
      hash.update(chunk);
      bytes += chunk.length;
      try {
        onBytes?.(chunk.length);
        done(null, chunk);
      } catch (error) {
        done(error as Error);
      }
    },
    flush: (done) => {
      try {
        onEnd(`sha256:${hash.digest("hex")}`, bytes);
        done();
      } catch (error) {
        done(error as Error);
      }
    },
  });
}

/** The entry's path without `./`, a leading slash or one at the end. @throws ImageError for one that climbs */
function pathOf(name: string): string {
  const parts = name.split("/").filter((part) => part !== "" && part !== ".");
  if (parts.includes("..") || name.includes("\0"))
    throw invalid("A layer holds a name that leaves the image.", { name: name.slice(0, 500) });
  return parts.join("/");
}

/** Looks at every entry's header on its way to tar. */
async function inspect(stream: Readable, budget: Budget): Promise<LayerNotes> {
  const notes: LayerNotes = { removed: [], emptied: [], folders: new Set([""]) };
  const reader = extract();
  const looking = (async () => {
    for await (const entry of reader) {
      const { name, type, uid = 0, gid = 0 } = entry.header;
      entry.resume();
      const path = pathOf(name);
      budget.files += 1;
      if (budget.files > maxFiles) throw invalid(`The image has more than ${maxFiles} files.`);
      if (uid > maxId || gid > maxId)
        throw invalid(`"${path}" belongs to ${uid}:${gid}, and ids end at ${maxId} here.`, {
          path,
          uid,
          gid,
        });
      const base = path.slice(path.lastIndexOf("/") + 1);
      const folder = path.slice(0, Math.max(0, path.length - base.length - 1));
      if (base === opaque) notes.emptied.push(folder);
      else if (base.startsWith(whiteout)) notes.removed.push(join(folder, base.slice(whiteout.length)));
      else if (type === "directory") notes.folders.add(path);
    }
  })();
  await Promise.all([pipeline(stream, reader), looking]);
  return notes;
}

/** Copies one stream to two readers, at the pace of the slower one. */
async function* tee(source: AsyncIterable<Buffer>, copy: PassThrough): AsyncGenerator<Buffer> {
  let isWhole = false;
  try {
    for await (const chunk of source) {
      if (copy.destroyed) break;
      if (!copy.write(chunk))
        await new Promise<void>((resolve) => copy.once("drain", resolve).once("close", resolve));
      yield chunk;
    }
    isWhole = true;
  } finally {
    // Also when the other reader stops early: this one must not wait for the rest.
    if (isWhole) copy.end();
    else copy.destroy();
  }
}

/**
 * Unpacks one layer into a folder of its own that nobody else writes to, by GNU tar, which follows no
 * link that it made itself, and verifies both of its digests on the way.
 *
 * @throws ImageError `image_invalid`, `disk_full`
 */
async function unpack(
  stream: Readable,
  layer: { readonly descriptor: Descriptor; readonly diffId: string },
  folder: string,
  budget: Budget,
  signal: AbortSignal,
): Promise<LayerNotes> {
  const { descriptor, diffId } = layer;
  const packed = measured((digest, size) => assertDigest(descriptor, digest, size));
  const unpacked = measured(
    (digest, size) => assertDigest({ ...descriptor, digest: diffId, size }, digest, size),
    (count) => {
      budget.bytes += count;
      if (budget.bytes <= budget.limitBytes) return;
      throw new ImageError(
        "disk_full",
        `The image has more than ${budget.limitBytes} bytes. Ask for a larger disk.`,
      );
    },
  );
  const copy = new PassThrough({ highWaterMark: 4 * 1024 * 1024 });
  const said: string[] = [];
  const args = [
    ...[
      "-n",
      "10",
      "tar",
      "--extract",
      "--file=-",
      `--directory=${folder}`,
      "--numeric-owner",
      "--same-owner",
    ],
    ...[
      "--same-permissions",
      "--delay-directory-restore",
      "--xattrs",
      "--xattrs-include=security.capability",
    ],
    ...[
      "--no-wildcards-match-slash",
      "--exclude=.wh.*",
      "--warning=no-unknown-keyword",
      "--warning=no-timestamp",
    ],
  ];
  const failed = new AbortController();
  const pass = pipeline(stream, packed, decompressor(descriptor), unpacked, { signal });
  const feed = Readable.from(tee(unpacked as AsyncIterable<Buffer>, copy), { objectMode: false });
  const looked = inspect(copy, budget).catch((error: unknown) => {
    failed.abort(error);
    throw error;
  });
  const extracted = runProgram("nice", args, {
    signal: AbortSignal.any([signal, failed.signal]),
    input: feed,
    onLine: (_stream, line) => {
      if (said.length < 20) said.push(line);
    },
  });
  const [passed, inspected, ended] = await Promise.allSettled([pass, looked, extracted]);
  signal.throwIfAborted();
  for (const outcome of [passed, inspected, ended])
    if (outcome.status === "rejected" && outcome.reason instanceof ImageError) throw outcome.reason;
  // A tar that gives up cuts its input off: what it said is the reason.
  if (ended.status === "fulfilled" && ended.value.code !== 0) {
    const why = said.find((line) => line !== "")?.replaceAll(folder, "") ?? "no reason given";
    throw invalid(`A layer cannot be unpacked: ${why}.`, { said });
  }
  if (passed.status === "rejected") throw damaged(passed.reason);
  if (inspected.status === "rejected") throw damaged(inspected.reason);
  if (ended.status === "rejected") throw ended.reason;
  return inspected.value;
}

const damaged = (cause: unknown): ImageError => {
  const { code } = cause as NodeJS.ErrnoException;
  if (code === "ENOSPC")
    return new ImageError("disk_full", "The machine's disk is full. Free space, then build again.");
  return new ImageError(
    "image_invalid",
    "A layer is damaged or ends early. Export or push the image again.",
    {},
    { cause },
  );
};

/** The real folder at `path` in the tree; `null` where there is none, or a link on the way. */
async function folderAt(root: string, path: string): Promise<string | null> {
  let at = root;
  for (const part of path.split("/").filter(Boolean)) {
    at = join(at, part);
    if (!(await lstat(at).catch(() => null))?.isDirectory()) return null;
  }
  return at;
}

async function remove(root: string, path: string): Promise<void> {
  const cut = path.lastIndexOf("/");
  const folder = await folderAt(root, path.slice(0, Math.max(0, cut)));
  const base = path.slice(cut + 1);
  if (folder && base !== "" && base !== "." && base !== "..")
    await rm(join(folder, base), { recursive: true, force: true });
}

/** Moves what the layer has over the tree; a name of another kind takes the old one's place. */
async function merge(
  layer: string,
  root: string,
  path: string,
  notes: LayerNotes,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  const [from, to] = [join(layer, path), join(root, path)];
  const own = await lstat(from);
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const name = path === "" ? entry.name : `${path}/${entry.name}`;
    const old = await lstat(join(root, name)).catch(() => null);
    if (old?.isDirectory() && entry.isDirectory()) {
      await merge(layer, root, name, notes, signal);
      continue;
    }
    if (old) await rm(join(root, name), { recursive: true, force: true });
    await rename(join(layer, name), join(root, name));
  }
  if (!notes.folders.has(path)) return;
  await chown(to, own.uid, own.gid);
  await chmod(to, own.mode & 0o7777);
  await utimes(to, own.atime, own.mtime);
}

/**
 * Puts one layer over the tree that the lower ones made.
 *
 * @param work private folder on the tree's file system
 * @throws ImageError
 * @see https://github.com/opencontainers/image-spec/blob/main/layer.md#applying-changesets
 */
export async function applyLayer(
  stream: Readable,
  layer: { readonly descriptor: Descriptor; readonly diffId: string },
  place: { readonly root: string; readonly work: string },
  budget: Budget,
  signal: AbortSignal,
): Promise<void> {
  const folder = join(place.work, "oci-layer");
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { mode: 0o755 });
  const notes = await unpack(stream, layer, folder, budget, signal);
  // A layer's removals concern the lower ones only, so they come before its own files.
  for (const path of notes.emptied) {
    const emptied = await folderAt(place.root, path);
    if (emptied)
      for (const name of await readdir(emptied))
        await rm(join(emptied, name), { recursive: true, force: true });
  }
  for (const path of notes.removed) await remove(place.root, path);
  await merge(folder, place.root, "", notes, signal);
  await rm(folder, { recursive: true, force: true });
}
