import { BoxLimits, DatabaseSpec } from "@platform/host-api";
import { z } from "zod";

const folder = z.string().startsWith("/", "must be an absolute path");

const mib = 1024 * 1024;
/** What a sandbox is unless its creator says otherwise. */
const defaultShape = {
  template: "host",
  limits: { memoryBytes: 4096 * mib, cpuMillis: 2000, maxProcesses: 4096, diskBytes: 10_240 * mib },
};
/** What a database is unless its creator says otherwise. */
const defaultDatabase = {
  ...{ engine: "postgresql", version: "16", hostname: "127.0.0.1" },
  ...{ cpuMillis: 1000, memoryBytes: 1024 * mib, storageBytes: 10_240 * mib },
};
const Shapes = z.array(z.object({ template: z.string(), limits: BoxLimits }));

/** Settings of the host daemon, read once from the environment. */
export const HostConfig = z.object({
  HOST_LISTEN_PORT: z.coerce.number().int().min(0).max(65_535),
  HOST_TOKEN: z.string().min(16),
  HOST_DATA_DIR: folder,
  /** Holds agent.mjs; made by apps/guest/build.ts. */
  GUEST_IMAGE_DIR: folder,
  /** Laid out like /usr/local, with bin/node. */
  TOOLCHAIN_DIR: folder,
  HOST_ID: z.string().min(1),
  /** Root file systems of templates; several daemons may share it. Default: `images` in the data folder. */
  IMAGES_DIR: folder.optional(),
  /** 1: as root, images that most templates use are built in the background when they are missing. */
  IMAGES_BUILD: z.enum(["0", "1"]).default("0"),
  /** JSON file of registries that templates may be imported from: `[{"name": "docker.io", "url": "https://…", "username"?, "password"?}]`. */
  IMAGE_REGISTRIES: z.string().startsWith("/", "must be an absolute path").optional(),
  /** 1: boxes end with the daemon instead of waiting for the next one to adopt them. */
  HOST_STOP_BOXES_ON_EXIT: z.enum(["0", "1"]).default("0"),
  /** Which drivers may make boxes, such as `gvisor,bubblewrap`; empty: all but qemu. The strongest usable one is taken. */
  HOST_DRIVERS: z
    .string()
    .default("")
    .transform((text) => text.split(",").flatMap((name) => name.trim() || [])),
  /** gVisor's runtime; looked for on the PATH when left out. */
  RUNSC_BIN: z.string().startsWith("/", "must be an absolute path").optional(),
  /** Holds the kernel of virtual machines; made by apps/guest/build-microvm.ts. */
  MICROVM_DIR: folder.optional(),
  /** Firecracker and its jailer, of one release. */
  FIRECRACKER_BIN: z.string().startsWith("/", "must be an absolute path").optional(),
  JAILER_BIN: z.string().startsWith("/", "must be an absolute path").optional(),
  /** The machine's own search path. */
  PATH: z.string().default("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
  /** Boxes that boot at once; 0: as many as there are cores, at least two. */
  HOST_BOOT_CONCURRENCY: z.coerce.number().int().min(0).max(64).default(0),
  /** Boxes booted before anybody asks: at least so many per shape in use, … */
  HOST_POOL_MIN: z.coerce.number().int().min(0).max(64).default(1),
  /** … and at most so many altogether; 0 keeps none. */
  HOST_POOL_MAX: z.coerce.number().int().min(0).max(256).default(6),
  /** The pool does not grow while less memory than this is free. */
  HOST_POOL_RESERVE_MIB: z.coerce.number().int().min(0).default(1024),
  /** Shapes that are kept ready before anybody asked, as JSON. */
  HOST_POOL_SHAPES: z
    .string()
    .default(JSON.stringify([defaultShape]))
    .transform((text) => Shapes.parse(JSON.parse(text))),
  /** Database servers made before anybody asks: at most so many per engine; 0 makes none. */
  HOST_SPARES_MAX: z.coerce.number().int().min(0).max(64).default(2),
  /** Databases for which one is kept ready before anybody asked, as JSON; what is asked for is learned. */
  HOST_SPARES_SHAPES: z
    .string()
    .default(JSON.stringify([defaultDatabase]))
    .transform((text) => z.array(DatabaseSpec).parse(JSON.parse(text))),
  LOG_LEVEL: z.enum(["silent", "fatal", "error", "warn", "info", "debug", "trace"]).default("info"),
});
export type HostConfig = z.output<typeof HostConfig>;
