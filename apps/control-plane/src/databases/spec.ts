import type { DatabaseSpec } from "@platform/host-api";
import type { Platform } from "../platform.ts";
import type { DatabaseRow } from "./store.ts";

/** The server as the row wants it. */
export const specOf = (platform: Platform, row: DatabaseRow): DatabaseSpec => ({
  engine: row.engine as DatabaseSpec["engine"],
  version: row.engine_version,
  memoryBytes: row.memory_mb * 1024 * 1024,
  storageBytes: row.storage_mb * 1024 * 1024,
  cpuMillis: row.cpu_count * 1000,
  hostname: platform.settings.databaseHostname,
});
