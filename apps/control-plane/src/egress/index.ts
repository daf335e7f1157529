export { effectiveEgress } from "./effective.ts";
export { egressHandlers } from "./routes.ts";
export { syncPendingEgress } from "./sync.ts";
