import {
  clearInheritedPostgresSettings,
  createLog,
  onShutdown,
  readConfig,
  runUntilSignal,
} from "@platform/daemon";
import { z } from "zod";
import { startObjectStore } from "./server.ts";

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
  LOG_LEVEL: z.string().default("info"),
});

const config = readConfig(Config);
clearInheritedPostgresSettings();
const log = createLog("object-store", config.LOG_LEVEL);
const store = await startObjectStore({
  port: config.OBJECT_STORE_PORT,
  dataDir: config.OBJECT_STORE_DATA_DIR,
  databaseUrl: config.DATABASE_URL,
  token: config.OBJECT_STORE_TOKEN,
  encryptionKey: Buffer.from(config.OBJECT_STORE_ENCRYPTION_KEY, "hex"),
  region: config.OBJECT_STORE_REGION,
  log,
});
onShutdown(() => store.close());
log.info({ port: store.port }, "listening");
process.send?.({ type: "listening", port: store.port });
runUntilSignal({ parent: true });
process.stdout.write(`${JSON.stringify({ ready: true, port: store.port })}\n`);
