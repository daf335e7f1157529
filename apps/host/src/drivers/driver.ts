import type { Duplex } from "node:stream";
import type { BoxFailure, BoxStats, DriverReport, Isolation, ResolvedBoxSpec } from "@platform/host-api";

/** A box's disk of limited size. The host makes and removes it. */
export interface BoxDisk {
  /** Sparse ext4 image holding `workspace/`, `home/` and `logs/`. */
  readonly image: string;
  /** Where the host mounts it. */
  readonly mount: string;
  /** Mount point of a small file system in memory: what the host and the box's agent share. */
  readonly run: string;
}

/**
 * Where a box lives on this machine. The host owns the folders; a driver mounts them. `root` itself
 * holds `state.json` and is never seen in the box.
 */
export interface BoxFolders {
  readonly root: string;
  /** `null` where disks cannot be limited: the folders are then the machine's own. */
  readonly disk: BoxDisk | null;
  /** The box's /workspace, its own. */
  readonly workspace: string;
  /** /home/user, its own. */
  readonly home: string;
  /** /run/agent, its own: the sockets of docs/ARCHITECTURE.md and the agent's settings. */
  readonly run: string;
  /** /etc, read-only. */
  readonly etc: string;
  /** /var/log/services, its own. */
  readonly serviceLogs: string;
  /** What the host writes about the box; not seen in it. */
  readonly log: string;
  /** Unprivileged uid and gid of this box alone; `null` when the daemon is not root and boxes run as its own user. */
  readonly owner: { readonly uid: number; readonly gid: number } | null;
}

/** What a driver needs to find a box again after the host daemon died; stored in `state.json`. */
export type DriverState = Record<string, unknown>;

/** What a trial showed; the host adds what the driver has members for. */
export type DriverProbe = Omit<DriverReport, "can">;

export interface StartedBox {
  readonly driverState: DriverState;
  readonly isolation: Isolation;
  /**
   * `answered`: it goes on from a moment in which its agent had answered, and still has to be told its
   * settings. `resting`: as well, and nothing in it runs until it is claimed.
   */
  readonly goesOn?: "answered" | "resting";
}

/**
 * Root file system of a template: shared, read-only, named by the digest of its content.
 *
 * The tree has empty folders for everything a driver mounts: /dev, /proc, /sys, /run, /tmp, /var/tmp,
 * /workspace, /home/user, /opt/agent, /opt/node, /var/log/services. Its /etc/hosts, hostname and
 * resolv.conf are links to /run/etc/ (the box's `etc` folder); everything else of /etc is its own.
 */
export interface RootImage {
  readonly digest: string;
  /** The unpacked tree, owned by root: `IMAGES_DIR/roots/<hex of the digest>/root`. Never written to. */
  readonly folder: string;
}

/** How to boot the guest agent in the box: same under every driver. */
export interface GuestImage {
  /** `null`: the machine's own system, read-only (template `host`). */
  readonly root: RootImage | null;
  /** Folder holding agent.mjs and its native parts, mounted read-only at /opt/agent. */
  readonly folder: string;
  /**
   * Folder laid out like /usr/local with bin/node, mounted read-only at /usr/local; with a `root`, whose
   * /usr/local is its own, at /opt/node instead, for the agent alone (`agentCommand` in linux/rootfs.ts).
   */
  readonly toolchain: string;
}

/**
 * Makes the isolated box with the guest agent in it, and nothing more: files, processes, ports and
 * terminals are the guest's protocol. All calls are idempotent by key and safe to repeat after a crash.
 */
export interface SandboxDriver {
  readonly name: string;
  /** Most time for the agent's first answer, in milliseconds, where it is another than the host's. */
  readonly readyTimeoutMs?: number;
  /**
   * `mounted` (the default): the box uses the folders as the host mounted them. `attached`: it gets
   * `folders.disk.image` as a block device, which the host mounts only before `start`; afterwards a guest
   * kernel has written it, and the host reads it through `files`.
   */
  readonly disk?: "mounted" | "attached";
  /** Really starts one minimal box and reports what held. */
  probe(signal: AbortSignal): Promise<DriverProbe>;
  /** Returns when the box's first process runs; the host then waits for the guest to answer. */
  start(
    key: string,
    spec: ResolvedBoxSpec,
    folders: BoxFolders,
    image: GuestImage,
    signal: AbortSignal,
  ): Promise<StartedBox>;
  /** `null` while the box runs, else why it does not. Works from `driverState` alone. */
  failure(key: string, state: DriverState): Promise<BoxFailure | null>;
  /** One byte stream to the guest agent. */
  dialGuest(key: string, state: DriverState, folders: BoxFolders): Promise<Duplex>;
  /** Kills everything of this key and removes cgroups and mounts, also when `state` is null (crash before it was written). */
  destroy(key: string, state: DriverState | null): Promise<void>;
  stats(key: string, state: DriverState): Promise<BoxStats>;
  /** Called about twice a second while the box runs: weighs its claim on the cores anew. */
  balance?(key: string, spec: ResolvedBoxSpec): Promise<void>;
  /** Makes the host names of changed links resolve in a running box. */
  relink(folders: BoxFolders, spec: ResolvedBoxSpec): Promise<void>;
  readonly freezer?: {
    pause(key: string, state: DriverState): Promise<void>;
    resume(key: string, state: DriverState): Promise<void>;
  };
  /** Present where the box's files lie on a disk that only the box's own kernel reads while it runs. */
  readonly files?: {
    /**
     * Copies them into `into`, an empty folder of the host's. Only between `freezer.pause` and
     * `freezer.resume`, or once the box has ended.
     *
     * @returns `folders` with the copies in place of workspace and home
     */
    copyOut(key: string, state: DriverState, folders: BoxFolders, into: string): Promise<BoxFolders>;
  };
  /** Boxes that start before anybody asked for them, where what a caller chooses can be given to a running box. */
  readonly standby?: {
    /** As `start`, with what the machine has left over, and ready to be claimed. */
    start: SandboxDriver["start"];
    /** Once its agent answered: brings the box to rest until it is claimed, where the driver does that. */
    settle?(key: string, state: DriverState, spec: ResolvedBoxSpec, folders: BoxFolders): Promise<void>;
    /**
     * Makes it the caller's: host name, linked names, full share of the cores, files as new as the box.
     * Nothing of a caller ran in it before. Throwing means that it has to be destroyed.
     */
    claim(key: string, state: DriverState, spec: ResolvedBoxSpec, folders: BoxFolders): Promise<void>;
  };
  /**
   * Memory, devices and disk of a running box as files, where the driver can: processes go on in the copy.
   * The guest gets a new clock, identity and randomness before anything else of the copy runs.
   */
  readonly checkpoints?: {
    /** Only between `freezer.pause` and `freezer.resume`. `into` is an empty folder of the host's. */
    save(key: string, state: DriverState, folders: BoxFolders, into: string): Promise<void>;
    /** `null` when a box of this spec can go on from what was saved, else why it cannot. */
    whyNot(spec: ResolvedBoxSpec, image: GuestImage, from: string): Promise<string | null>;
    /** In place of `start`, under another key or the same one; `from` is left as it was. */
    restore(
      key: string,
      spec: ResolvedBoxSpec,
      folders: BoxFolders,
      image: GuestImage,
      from: string,
      signal: AbortSignal,
    ): Promise<StartedBox>;
  };
  /** Keys of boxes of which the machine still holds something (processes, cgroups, mounts). */
  remnants(): Promise<string[]>;
}
