import { z } from "zod";

const folder = z.string().startsWith("/", "must be an absolute path");

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
  /** The machine's own search path. */
  PATH: z.string().default("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
  LOG_LEVEL: z.enum(["silent", "fatal", "error", "warn", "info", "debug", "trace"]).default("info"),
});
export type HostConfig = z.output<typeof HostConfig>;
