import {
  clearInheritedPostgresSettings,
  createLog,
  onShutdown,
  readConfig,
  runUntilSignal,
} from "@platform/daemon";
import { z } from "zod";
import { startObjectStore } from "./server.ts";
import { UpstreamUnusableError, type UpstreamSettings } from "./upstream-blobs.ts";

const Config = z.object({
  OBJECT_STORE_PORT: z.coerce.number().int().min(0).max(65_535),
  OBJECT_STORE_DATA_DIR: z.string().min(1),
  DATABASE_URL: z.string().min(1),
  OBJECT_STORE_TOKEN: z.string().min(32),
  OBJECT_STORE_ENCRYPTION_KEY: z.string().regex(/^[0-9a-f]{64}$/, "must be 32 bytes in hexadecimal"),
  /** What clients are told as location; they may sign for any. */
  OBJECT_STORE_REGION: z
    .string()
    .regex(/^[a-z0-9-]{1,63}$/)
    .default("us-east-1"),
  /** Another object store's bucket for content; all of them or none. */
  OBJECT_STORE_UPSTREAM_ENDPOINT: z.url().optional(),
  OBJECT_STORE_UPSTREAM_REGION: z.string().default("us-east-1"),
  OBJECT_STORE_UPSTREAM_BUCKET: z.string().optional(),
  OBJECT_STORE_UPSTREAM_PREFIX: z
    .string()
    .regex(/^$|\/$/, "is empty or ends with /")
    .default(""),
  OBJECT_STORE_UPSTREAM_ACCESS_KEY_ID: z.string().optional(),
  OBJECT_STORE_UPSTREAM_SECRET_ACCESS_KEY: z.string().optional(),
  /** true: the bucket is in the path, false: in the host name. */
  OBJECT_STORE_UPSTREAM_PATH_STYLE: z.stringbool().default(true),
  LOG_LEVEL: z.string().default("info"),
});

function upstreamOf(settings: z.output<typeof Config>): UpstreamSettings | null {
  const endpoint = settings.OBJECT_STORE_UPSTREAM_ENDPOINT;
  const bucket = settings.OBJECT_STORE_UPSTREAM_BUCKET;
  const accessKeyId = settings.OBJECT_STORE_UPSTREAM_ACCESS_KEY_ID;
  const secretAccessKey = settings.OBJECT_STORE_UPSTREAM_SECRET_ACCESS_KEY;
  if (!endpoint && !bucket && !accessKeyId && !secretAccessKey) return null;
  if (!endpoint || !bucket || !accessKeyId || !secretAccessKey)
    throw new UpstreamUnusableError(
      "An upstream bucket needs OBJECT_STORE_UPSTREAM_ENDPOINT, _BUCKET, _ACCESS_KEY_ID and _SECRET_ACCESS_KEY. Set all four, or none.",
    );
  return {
    ...{ endpoint, bucket, accessKeyId, secretAccessKey },
    region: settings.OBJECT_STORE_UPSTREAM_REGION,
    prefix: settings.OBJECT_STORE_UPSTREAM_PREFIX,
    pathStyle: settings.OBJECT_STORE_UPSTREAM_PATH_STYLE,
  };
}

const config = readConfig(Config);
clearInheritedPostgresSettings();
const log = createLog("object-store", config.LOG_LEVEL);
const start = async () =>
  startObjectStore({
    port: config.OBJECT_STORE_PORT,
    dataDir: config.OBJECT_STORE_DATA_DIR,
    databaseUrl: config.DATABASE_URL,
    token: config.OBJECT_STORE_TOKEN,
    encryptionKey: Buffer.from(config.OBJECT_STORE_ENCRYPTION_KEY, "hex"),
    region: config.OBJECT_STORE_REGION,
    upstream: upstreamOf(config),
    log,
  });
const store = await start().catch((error: unknown) => {
  if (!(error instanceof UpstreamUnusableError)) throw error;
  log.fatal(error.message);
  process.exit(1);
});
onShutdown(() => store.close());
log.info({ port: store.port }, "listening");
process.send?.({ type: "listening", port: store.port });
runUntilSignal({ parent: true });
process.stdout.write(`${JSON.stringify({ ready: true, port: store.port })}\n`);
