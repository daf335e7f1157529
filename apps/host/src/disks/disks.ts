import { chmod, mkdir, mkdtemp, rm, stat, statfs } from "node:fs/promises";
import { dirname, join } from "node:path";
import { HostError, type BoxLimits } from "@platform/host-api";
import type { BoxDisk } from "../drivers/driver.ts";
import { detachLoop, isMounted, loopDevices, mount, mounts, unmount } from "../drivers/linux/mounts.ts";
import { ImageTemplates, maxFilesOf } from "./image.ts";

const mib = 1024 * 1024;

export interface DiskUsage {
  readonly diskBytes: number;
  readonly diskLimitBytes: number;
  readonly files: number;
  readonly filesLimit: number;
}

/** An image file and the folder where it is mounted. */
export type Volume = Pick<BoxDisk, "image" | "mount">;

/** Bytes that stay free on the machine's disk: below it no new box is made. */
const reserveBytes = 512 * mib;

/** The box's own sockets and settings, kept apart from its disk so that a full disk closes no door. */
const runOptions = ["size=4m", "nr_inodes=256", "mode=0711", "nosuid", "nodev", "noexec"];
const diskOptions = ["loop", "nosuid", "nodev", "noatime", "discard"];

/**
 * The limited disks of all boxes of one host: a sparse image for each, mounted where the host reads it.
 * A box's folder also holds a small file system in memory for its sockets and settings.
 */
export class Disks {
  readonly #templates: ImageTemplates;
  readonly #boxes: string;

  private constructor(templates: string, boxes: string) {
    this.#templates = new ImageTemplates(templates);
    this.#boxes = boxes;
  }

  /**
   * Makes, mounts and unmounts one small disk.
   *
   * @param place.templates folder for formatted images
   * @param place.boxes folder that holds the boxes' folders
   * @returns `null` with the reason when disks cannot be limited here
   */
  static async open(place: {
    templates: string;
    boxes: string;
    scratch: string;
    runsAsRoot: boolean;
  }): Promise<{ disks: Disks | null; why: string | null }> {
    if (!place.runsAsRoot) return { disks: null, why: "Only root may mount a disk of limited size." };
    const disks = new Disks(place.templates, place.boxes);
    const root = await mkdtemp(join(place.scratch, "disk-"));
    const disk: BoxDisk = {
      image: join(root, "disk.img"),
      mount: join(root, "disk"),
      run: join(root, "run"),
    };
    try {
      await disks.make(disk, trialLimits);
      return { disks, why: null };
    } catch (error) {
      const why = `A disk of limited size could not be mounted: ${(error as Error).message.trim()}. Check mkfs.ext4 and /dev/loop-control.`;
      return { disks: null, why };
    } finally {
      await disks.unmount(disk);
      await rm(root, { recursive: true, force: true });
    }
  }

  /** A new, empty, mounted disk. @throws HostError `DISK_FULL` when the machine itself is short of room */
  async make(disk: BoxDisk, limits: BoxLimits): Promise<void> {
    await this.#assertRoom(disk.image);
    await this.unmount(disk);
    await rm(disk.image, { force: true });
    await this.#templates.copy(limits, disk.image);
    await this.mount(disk);
  }

  /** A disk without a run folder, for what is no box. @throws HostError `DISK_FULL` as `make` does */
  async makeVolume(volume: Volume, limits: BoxLimits): Promise<void> {
    await this.#assertRoom(volume.image);
    await unmount(volume.mount);
    await rm(volume.image, { force: true });
    await this.#templates.copy(limits, volume.image);
    await this.mountVolume(volume);
  }

  async mountVolume({ image, mount: folder }: Volume): Promise<void> {
    await mkdir(folder, { recursive: true, mode: 0o711 });
    if (!(await isMounted(folder))) await mount("ext4", diskOptions, image, folder);
    await chmod(folder, 0o711);
  }

  async unmountVolume({ mount: folder }: Volume): Promise<void> {
    await unmount(folder);
  }

  /** Mounts what is not mounted: after a restart of the machine all of it. */
  async mount(disk: BoxDisk): Promise<void> {
    await this.mountRun(disk);
    await this.mountVolume(disk);
  }

  async #assertRoom(image: string): Promise<void> {
    const { bavail, bsize } = await statfs(dirname(image));
    if (bavail * bsize >= reserveBytes) return;
    const message = "The machine's disk is nearly full. Free space or move boxes to another host.";
    throw new HostError("DISK_FULL", 507, message);
  }

  async mountRun(disk: BoxDisk): Promise<void> {
    await mkdir(disk.run, { recursive: true, mode: 0o711 });
    if (!(await isMounted(disk.run))) await mount("tmpfs", runOptions, "run", disk.run);
  }

  /** Only once no process of the box runs. The loop device frees itself. */
  async unmount(disk: BoxDisk): Promise<void> {
    await unmount(disk.mount);
    await unmount(disk.run);
  }

  /** Gives a machine of its own sole use of the image: two kernels never write one file system. */
  async detach(disk: BoxDisk): Promise<void> {
    await unmount(disk.mount);
  }

  /**
   * Runs `work` while the folders of the disk can be read. One that a virtual machine holds is mounted
   * read-only for that time, its journal left alone: the machine must be paused with everything written.
   */
  async reading<T>(disk: BoxDisk, isAttached: boolean, work: () => Promise<T>): Promise<T> {
    if (!isAttached || (await isMounted(disk.mount))) return work();
    await mount("ext4", ["loop", "ro", "noload", "nosuid", "nodev", "noexec"], disk.image, disk.mount);
    try {
      return await work();
    } finally {
      await unmount(disk.mount);
    }
  }

  /** `null` while a virtual machine holds it. */
  async usage(disk: BoxDisk, limits: BoxLimits): Promise<DiskUsage | null> {
    if ((await stat(disk.mount)).dev === (await stat(dirname(disk.mount))).dev) return null;
    const { blocks, bfree, bsize, files, ffree } = await statfs(disk.mount);
    return {
      diskBytes: (blocks - bfree) * bsize,
      diskLimitBytes: Math.min(limits.diskBytes, blocks * bsize),
      files: files - ffree,
      filesLimit: Math.min(maxFilesOf(limits), files),
    };
  }

  /**
   * Frees mounts and loop devices below the boxes' folder that belong to none of `keys`.
   *
   * @returns what was freed
   */
  async sweep(keys: ReadonlySet<string>): Promise<string[]> {
    const freed: string[] = [];
    const isForeign = (path: string) => {
      if (!path.startsWith(`${this.#boxes}/`)) return false;
      return !keys.has(path.slice(this.#boxes.length + 1).split("/")[0] ?? "");
    };
    for (const { folder } of (await mounts()).toReversed()) {
      if (!isForeign(folder)) continue;
      await unmount(folder);
      freed.push(folder);
    }
    for (const { device, file } of await loopDevices()) {
      if (!isForeign(file.replace(/ \(deleted\)$/, ""))) continue;
      await detachLoop(device);
      freed.push(device);
    }
    return freed;
  }
}

const trialLimits: BoxLimits = {
  memoryBytes: 16 * mib,
  cpuMillis: 10,
  maxProcesses: 8,
  diskBytes: mib,
  maxFiles: 1024,
};
