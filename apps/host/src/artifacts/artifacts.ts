import { lstat, mkdir, mkdtemp, readdir, readFile, rename, rmdir, stat, writeFile } from "node:fs/promises";
import { join, posix } from "node:path";
import type { z } from "zod";
import { faultPoint } from "@platform/daemon";
import {
  ArtifactError,
  assembleChunks,
  collectGarbage,
  putChunk,
  removeChunks,
  buildBundle,
  freezeFolder,
  parseDigest,
  SecretSearch,
  unpackBundle,
  unpackSource,
  type ArtifactStore,
} from "@platform/bundle";
import {
  AssembleRequest,
  BundleNamed,
  BundlePair,
  BundleRequest,
  ChunkRequest,
  CollectRequest,
  FillRequest,
  RemoveChunksRequest,
  type Assembled,
  type CollectedReport,
  FreezeRequest,
  HostError,
  SnapshotInfo,
  type BundleCheck,
  type BundleDiff,
  type BundleSbom,
  type Bundled,
  type Frozen,
} from "@platform/host-api";
import {
  copyTree,
  diskUsage,
  removeTree,
  type Boxes,
  type ContentSource,
  type StillBox,
} from "../boxes/index.ts";
import type { BoxFolders } from "../drivers/driver.ts";
import { bundleSbom, checkBundle, diffBundles } from "./bundles.ts";
import { changeOwner } from "./change-owner.ts";

const insideRoots = [
  ["/workspace", "workspace"],
  ["/home/user", "home"],
] as const;

/**
 * Splits a path as the box sees it into a folder that the host owns and a path below it, which the
 * box could have made into links: only code that refuses links may walk it.
 *
 * @throws HostError `INVALID`
 */
export function locate(folders: BoxFolders, path: string): { folder: string; subfolder: string } {
  const inside = posix.resolve("/workspace", path);
  for (const [root, name] of insideRoots) {
    if (inside === root) return { folder: folders[name], subfolder: "" };
    if (inside.startsWith(`${root}/`))
      return { folder: folders[name], subfolder: inside.slice(root.length + 1) };
  }
  throw new HostError("INVALID", 400, `${path} is neither in /workspace nor in /home/user.`);
}

/** Within a snapshot: what the driver saved of a running box. */
const memoryFolder = "memory";

const noSuchSnapshot = (snapshotKey: string) =>
  new HostError("NOT_FOUND", 404, `There is no snapshot ${snapshotKey} on this host.`);

/** @returns the driver whose boxes can go on from it; `null` when nothing ran or the driver cannot */
async function saveMemory(
  { driver, place, folders, record }: StillBox,
  into: string,
): Promise<string | null> {
  if (!driver.checkpoints || record.phase !== "running") return null;
  await mkdir(into, { mode: 0o700 });
  await driver.checkpoints.save(place, record.driverState ?? {}, folders, into);
  return driver.name;
}

/** Turns the artifact package's failures into the host's. */
async function explained<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ENOSPC") {
      const message = "The machine's disk is full. Free space or use another host.";
      throw new HostError("DISK_FULL", 507, message, {}, { cause });
    }
    if (code === "ENOENT" || code === "ENOTDIR") {
      throw new HostError("INVALID", 400, "There is no such folder in the box.", {}, { cause });
    }
    if (!(cause instanceof ArtifactError)) throw cause;
    const isMissing = cause.code === "ARTIFACT_MISSING";
    throw new HostError(
      isMissing ? "NOT_FOUND" : "INVALID",
      isMissing ? 404 : 422,
      cause.message,
      { reason: cause.code, ...cause.details },
      { cause },
    );
  }
}

/** Frozen trees, bundles and snapshots of one host. */
export class Artifacts implements ContentSource {
  readonly #store: ArtifactStore;
  readonly #snapshots: string;

  constructor(store: ArtifactStore, snapshots: string) {
    this.#store = store;
    this.#snapshots = snapshots;
  }

  /** Removes copies that a crash left half-made. Call once, first. */
  async recover(): Promise<void> {
    await mkdir(this.#snapshots, { recursive: true, mode: 0o700 });
    for (const name of await readdir(this.#snapshots)) {
      if (name.startsWith(".")) await removeTree(join(this.#snapshots, name));
    }
  }

  async fill(content: Parameters<ContentSource["fill"]>[0], folders: BoxFolders): Promise<void> {
    const owner = folders.owner ?? {};
    switch (content.type) {
      case "empty":
        return;
      case "source":
      case "bundle": {
        // The unpacked tree takes the place of the empty folder at once, complete or not at all.
        await rmdir(folders.workspace);
        const unpack = content.type === "source" ? unpackSource : unpackBundle;
        await explained(unpack(this.#store, parseDigest(content.digest), folders.workspace, owner));
        return;
      }
      case "snapshot":
        await this.#restore(content.snapshotKey, folders);
    }
  }

  async memoryOf(content: Parameters<ContentSource["fill"]>[0], driver: string): Promise<string | null> {
    if (content.type !== "snapshot") return null;
    const info = await this.#info(content.snapshotKey);
    if (!info) throw noSuchSnapshot(content.snapshotKey);
    return info.memoryOf === driver ? join(this.#snapshots, info.key, memoryFolder) : null;
  }

  async freeze(boxes: Boxes, key: string, body: unknown): Promise<Frozen> {
    const { path, exclude } = FreezeRequest.parse(body);
    const frozen = await boxes.whileStill(key, async ({ folders }) => {
      const { folder, subfolder } = locate(folders, path);
      const done = await explained(freezeFolder(this.#store, folder, { exclude, ...below(subfolder) }));
      faultPoint("host.freeze.after-copy");
      return done;
    });
    return { digest: frozen.digest, sizeBytes: frozen.sizeBytes, files: frozen.files };
  }

  async bundle(boxes: Boxes, key: string, body: unknown): Promise<Bundled> {
    const { path, exclude, secrets, source, sbom, ...declared } = BundleRequest.parse(body);
    const made = { source: source ? parseDigest(source) : null, sbom: sbom ? parseDigest(sbom) : null };
    const search = new SecretSearch(secrets);
    const built = await boxes.whileStill(key, async ({ folders }) => {
      const { folder, subfolder } = locate(folders, path);
      return explained(
        buildBundle(this.#store, folder, { ...declared, ...made, exclude, search, ...below(subfolder) }),
      );
    });
    faultPoint("host.bundle.before-answer");
    return built;
  }

  /** The box is still meanwhile, so that it cannot lead the files elsewhere. */
  async fillFolder(boxes: Boxes, key: string, body: unknown): Promise<void> {
    const { digest, folder } = FillRequest.parse(body);
    await boxes.whileStill(key, async ({ folders }) => {
      const into = join(folders.workspace, folder);
      if (await lstat(into).catch(() => null))
        throw new HostError("CONFLICT", 409, `There is a ${folder} in the box already.`);
      await explained(unpackSource(this.#store, parseDigest(digest), into, folders.owner ?? {}));
    });
  }

  async checkBundle(body: unknown): Promise<BundleCheck> {
    return explained(checkBundle(this.#store, parseDigest(BundleNamed.parse(body).digest)));
  }

  async diffBundles(body: unknown): Promise<BundleDiff> {
    const { from, to } = BundlePair.parse(body);
    return explained(diffBundles(this.#store, parseDigest(from), parseDigest(to)));
  }

  async bundleSbom(body: unknown): Promise<BundleSbom> {
    return explained(bundleSbom(this.#store, parseDigest(BundleNamed.parse(body).digest)));
  }

  async putChunk(body: unknown): Promise<void> {
    const { digest, base64 } = ChunkRequest.parse(body);
    await explained(putChunk(this.#store, parseDigest(digest), Buffer.from(base64, "base64")));
  }

  async assembleChunks(body: unknown): Promise<z.output<typeof Assembled>> {
    const { chunks, digest } = AssembleRequest.parse(body);
    return explained(assembleChunks(this.#store, chunks.map(parseDigest), parseDigest(digest)));
  }

  async removeChunks(body: unknown): Promise<void> {
    await removeChunks(this.#store, RemoveChunksRequest.parse(body).chunks.map(parseDigest));
  }

  /** What boxes of this host were made from stays, whoever forgot it. */
  async collect(boxes: Boxes, body: unknown): Promise<z.output<typeof CollectedReport>> {
    const { keep, graceMs } = CollectRequest.parse(body);
    const kept = [...keep, ...boxes.contentDigests()].map(parseDigest);
    const { removed, freedBytes, missing } = await collectGarbage(
      this.#store,
      kept,
      graceMs === undefined ? {} : { graceMs },
    );
    return { removed: removed.length, freedBytes, missing };
  }

  /** Every whole snapshot of this host. */
  async snapshots(): Promise<SnapshotInfo[]> {
    const names = await readdir(this.#snapshots);
    const found = await Promise.all(
      names.filter((name) => !name.startsWith(".")).map((name) => this.#info(name)),
    );
    return found.filter((info) => info !== null);
  }

  /** Idempotent: an existing snapshot is returned as it is, whatever became of its box. */
  async snapshot(boxes: Boxes, snapshotKey: string, boxKey: string): Promise<SnapshotInfo> {
    const known = await this.#info(snapshotKey);
    if (known) return known;
    const staged = await mkdtemp(join(this.#snapshots, ".staged-"));
    try {
      const taken = await boxes.whileStill(boxKey, async (still) => {
        if (await this.#info(snapshotKey)) return null;
        const { folders } = still;
        for (const name of ["workspace", "home"] as const) await copyTree(folders[name], join(staged, name));
        return { memoryOf: await saveMemory(still, join(staged, memoryFolder)) };
      });
      if (taken) {
        const info: SnapshotInfo = {
          key: snapshotKey,
          sizeBytes: await diskUsage(staged),
          createdAt: new Date().toISOString(),
          ...taken,
        };
        await writeFile(join(staged, "snapshot.json"), JSON.stringify(info));
        await rename(staged, join(this.#snapshots, snapshotKey));
        return info;
      }
    } finally {
      await removeTree(staged);
    }
    return this.snapshot(boxes, snapshotKey, boxKey);
  }

  async deleteSnapshot(snapshotKey: string): Promise<void> {
    const doomed = join(this.#snapshots, `.deleted-${snapshotKey}`);
    await removeTree(doomed);
    try {
      await rename(join(this.#snapshots, snapshotKey), doomed);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
      throw error;
    }
    await removeTree(doomed);
  }

  async #info(snapshotKey: string): Promise<SnapshotInfo | null> {
    try {
      const text = await readFile(join(this.#snapshots, snapshotKey, "snapshot.json"), "utf8");
      return SnapshotInfo.parse(JSON.parse(text));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      throw error;
    }
  }

  async #restore(snapshotKey: string, folders: BoxFolders): Promise<void> {
    if (!(await this.#info(snapshotKey))) {
      throw noSuchSnapshot(snapshotKey);
    }
    const from = join(this.#snapshots, snapshotKey);
    const old = await stat(join(from, "workspace"));
    for (const name of ["workspace", "home"] as const) {
      await copyTree(join(from, name), folders[name]);
      if (folders.owner) await changeOwner(folders[name], old.uid, folders.owner);
    }
  }
}

const below = (subfolder: string) => (subfolder === "" ? {} : { subfolder });
