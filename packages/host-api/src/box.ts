import { z } from "zod";

/**
 * A *box* is what a host makes out of a template: an isolated root filesystem, process tree and
 * network with the guest agent in it. Sandboxes, builds and app instances are all boxes.
 */

/** Weakest first. A box is never put into a weaker class than it asks for. */
export const isolationClasses = [
  "none",
  "namespaces",
  "microvm-emulated",
  "userspace-kernel",
  "microvm-hw",
] as const;
/** Among what a box's `isolation.missing` names, where its driver cannot hold it still. */
export const pauses = "pauses";

export const IsolationClass = z.enum(isolationClasses);
export type IsolationClass = z.output<typeof IsolationClass>;

/** What is in force for one box, as observed, never as wished. */
export const Isolation = z.object({
  driver: z.string().describe("bubblewrap, gvisor, qemu or firecracker"),
  level: IsolationClass,
  kernel: z.string().describe("Kernel that serves the box's system calls"),
  /** Guarantees that do not hold on this machine, such as "memory limit (no cgroup)". */
  missing: z.array(z.string()),
});
export type Isolation = z.output<typeof Isolation>;

/** Chosen by the caller; also names folders, cgroups and processes, so that a crash orphans nothing. */
export const BoxKey = z.string().regex(/^[a-z0-9][a-z0-9-]{6,62}$/);
export const Digest = z.string().regex(/^sha256:[0-9a-f]{64}$/);

export const BoxLimits = z.object({
  memoryBytes: z.int().min(16 * 1024 * 1024),
  cpuMillis: z.int().min(10).describe("1000 = one core"),
  maxProcesses: z.int().min(8).max(100_000),
  diskBytes: z.int().min(1024 * 1024),
  /** Files, folders and links on the disk. By default one for 8 KiB, from 16,384 to 1,000,000. */
  maxFiles: z.int().min(1024).max(100_000_000).optional(),
  /** Of all connections together, each way. By default 50 MB for each core, at least 25 MB. */
  networkBytesPerSecond: z.int().min(1000).optional(),
});
export type BoxLimits = z.output<typeof BoxLimits>;

export const EgressPolicy = z.object({
  mode: z.enum(["allow-all", "deny-all"]),
  /** With deny-all: reachable nevertheless. `*.example.com` covers every depth below it. */
  allowedDomains: z.array(z.string()).default([]),
  allowedCidrs: z.array(z.string()).default([]),
  deniedCidrs: z.array(z.string()).default([]),
  /** Not reachable by these names in any mode. With allow-all an address still is: deny its range too. */
  deniedDomains: z.array(z.string()).optional(),
});
export type EgressPolicy = z.output<typeof EgressPolicy>;

/** A database that the box may reach: the guest listens on 127.0.0.1:`port`, the host connects on. */
export const BoxLink = z.object({
  databaseKey: BoxKey,
  /** Name inside the box; written to its hosts file when it is not an address. */
  hostname: z.string(),
  port: z.int().min(1).max(65_535),
  /** Which part of the database's connections it draws from; previews together leave the rest to production. */
  share: z.enum(["production", "previews"]).optional(),
});
export type BoxLink = z.output<typeof BoxLink>;

/** A named process that the guest keeps alive, also while the host daemon is away. */
export const BoxService = z.object({
  name: z.string().regex(/^[A-Za-z0-9_.-]{1,64}$/),
  command: z.string().min(1).max(65_536).describe("Shell command"),
  cwd: z.string().default("/workspace"),
  env: z.record(z.string(), z.string()).default({}),
  /** `always` restarts with backoff 0.2 s doubling to 30 s; `never` leaves it exited. */
  restart: z.enum(["always", "never"]).default("never"),
});
export type BoxService = z.output<typeof BoxService>;

/** What fills the box's /workspace at creation. All but `empty` are content on this host's artifact store. */
export const BoxContent = z.discriminatedUnion("type", [
  z.object({ type: z.literal("empty") }),
  /** A tree frozen by `freeze`, digest of the source blob. Writable. */
  z.object({ type: z.literal("source"), digest: Digest }),
  /** A release bundle (packages/bundle): unpacked writable copy; verified by digest before use. */
  z.object({ type: z.literal("bundle"), digest: Digest }),
  /** A snapshot made by POST /boxes/:key/snapshots. */
  z.object({
    type: z.literal("snapshot"),
    snapshotKey: BoxKey,
    /**
     * `true`: with the processes that ran, or not at all; `false`: files only. Left out: with processes
     * where the snapshot holds memory and the new box can go on from it.
     */
    withMemory: z.boolean().optional(),
  }),
]);
export type BoxContent = z.output<typeof BoxContent>;

export const BoxSpec = z.object({
  purpose: z.enum(["sandbox", "build", "instance"]),
  minimumIsolation: IsolationClass,
  template: z
    .string()
    .default("host")
    .describe("`host`: the machine's own system, read-only; else an image, by built-in name or digest"),
  content: BoxContent,
  limits: BoxLimits,
  /** For every process in the box. May hold secrets: kept 0600 on disk, never in argv or logs. */
  env: z.record(z.string(), z.string()).default({}),
  egress: EgressPolicy,
  links: z.array(BoxLink).default([]),
  services: z.array(BoxService).default([]),
  hostname: z
    .string()
    .default("app")
    .describe("Name the box sees as its own; must carry no brand but the tenant's"),
});
export type BoxSpec = z.input<typeof BoxSpec>;
export type ResolvedBoxSpec = z.output<typeof BoxSpec>;

/**
 * `starting`: being made. `running`: the guest answered a command. `paused`: frozen, memory kept.
 * `failed`: it is gone or its guest does not answer; `failure` says why. An unknown key is a 404.
 */
export const BoxState = z.enum(["starting", "running", "paused", "failed"]);

/** `cold`: booted for this caller. `pool`: had been booted before anybody asked. `snapshot`: from saved memory. */
export const bootPaths = ["cold", "pool", "snapshot"] as const;

export const BoxFailure = z.object({
  /** `oom` only when the kernel's own counter rose. */
  reason: z.enum([
    "oom",
    "killed",
    "exited",
    /** The kernel refused it more processes, and it could not go on. */
    "too_many_processes",
    "boot_failed",
    "guest_lost",
    "isolation_unavailable",
    "disk_full",
  ]),
  detail: z.string(),
  evidence: z.record(z.string(), z.unknown()).default({}),
});
export type BoxFailure = z.output<typeof BoxFailure>;

/** A trouble of a box that did not end it. */
export const BoxNotice = z.object({
  /** `oom`: the kernel's own counter rose. `disk_full`: less than one part in a hundred is free. */
  type: z.enum(["oom", "disk_full"]),
  at: z.string(),
  detail: z.string(),
  evidence: z.record(z.string(), z.unknown()),
});
export type BoxNotice = z.output<typeof BoxNotice>;

/** What the kernel counted of a box's memory; null where this machine cannot measure it. */
export const OomReport = z.object({
  oomKills: z.number().nullable(),
  memoryLimitBytes: z.number().nullable(),
  memoryPeakBytes: z.number().nullable(),
  /** Names of the programs that the kernel's log says it killed, the last ones; empty where it cannot be read. */
  processes: z.array(z.string()).default([]),
});
export type OomReport = z.output<typeof OomReport>;

export const Box = z.object({
  key: BoxKey,
  purpose: BoxSpec.shape.purpose,
  state: BoxState,
  isolation: Isolation.nullable(),
  failure: BoxFailure.nullable(),
  createdAt: z.string(),
  /** Create request to first guest answer, milliseconds, without the time in the queue; null until it answered. */
  bootMs: z.number().nullable(),
  /** How it came up; null until it did. */
  bootPath: z.enum(bootPaths).nullable(),
  /** Hash of the spec without secrets' values; lets the caller see that a re-create asked for something else. */
  specHash: z.string(),
  /** Digest of the image whose root it has; `null`: the machine's own system, read-only. */
  image: Digest.nullable().default(null),
  /** The newest, at most 20, since the host daemon started. */
  notices: z.array(BoxNotice).default([]),
});
export type Box = z.output<typeof Box>;

/** Changes that need no new box. `env` replaces the whole map and reaches processes started later. */
export const BoxPatch = z.object({
  env: z.record(z.string(), z.string()).optional(),
  egress: EgressPolicy.optional(),
  links: z.array(BoxLink).optional(),
});
export type BoxPatch = z.input<typeof BoxPatch>;

/** The kernel's own figures; null where this machine cannot measure it. */
export const BoxStats = z.object({
  memoryBytes: z.number().nullable(),
  memoryPeakBytes: z.number().nullable(),
  memoryLimitBytes: z.number().nullable(),
  cpuMicros: z.number().nullable(),
  processes: z.number().nullable(),
  oomKills: z.number().nullable(),
  diskBytes: z.number().nullable(),
  diskLimitBytes: z.number().nullable().optional(),
  /** Files, folders and links on the disk. */
  files: z.number().nullable().optional(),
  filesLimit: z.number().nullable().optional(),
  /** Through the one way out, since this daemon began to serve the box. */
  outbound: z.object({ sentBytes: z.number(), receivedBytes: z.number() }).optional(),
  /** That callers hold to the box's ports now. */
  openConnections: z.number().optional(),
});
export type BoxStats = z.output<typeof BoxStats>;

/** A connection that a box tried to make to the outside. */
export const EgressAttempt = z.object({
  at: z.string(),
  host: z.string(),
  port: z.int(),
  outcome: z.string().describe("ALLOWED, or the code of the refusal"),
});
export type EgressAttempt = z.output<typeof EgressAttempt>;

export const DriverReport = z.object({
  driver: z.string(),
  usable: z.boolean(),
  level: IsolationClass,
  version: z.string().nullable(),
  why: z.string().nullable().describe("Why it is not usable, and what to do"),
  missing: z.array(z.string()),
  /** `pause`: boxes are held still in memory. `checkpoint`: a snapshot holds memory too. */
  can: z.array(z.enum(["pause", "checkpoint"])).default([]),
});
export type DriverReport = z.output<typeof DriverReport>;

export const Doctor = z.object({
  hostId: z.string(),
  runsAsRoot: z.boolean(),
  chosen: z.string().nullable(),
  drivers: z.array(DriverReport),
  engines: z.array(
    z.object({
      engine: z.string(),
      usable: z.boolean(),
      version: z.string().nullable(),
      why: z.string().nullable(),
    }),
  ),
  memoryBytes: z.number(),
  cores: z.number(),
});
export type Doctor = z.output<typeof Doctor>;
