export { createLog, type Log } from "./log.ts";
export { readConfig } from "./config.ts";
export { onShutdown, runUntilSignal } from "./shutdown.ts";
export { faultPoint } from "./fault-point.ts";
export { sleepUntil, waitFor, Deadline } from "./wait.ts";
export { clearInheritedPostgresSettings } from "./environment.ts";
export { newId, unguessableId } from "./ids.ts";
export { Wakeup } from "./wakeup.ts";
