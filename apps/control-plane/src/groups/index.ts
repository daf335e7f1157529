import type { Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { batchHandlers } from "./batches.ts";
import { bulkHandlers } from "./bulk.ts";

/** Many sandboxes by one call. */
export const groupHandlers = (platform: Platform): Handler[] => [
  ...batchHandlers(platform),
  ...bulkHandlers(platform),
];
export { settleBulk } from "./bulk.ts";
