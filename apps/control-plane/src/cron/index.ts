export { cronHandlers } from "./routes.ts";
export { CronScheduler } from "./scheduler.ts";
export { trimExecutions } from "./claim.ts";
