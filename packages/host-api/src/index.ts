export * from "./box.ts";
export * from "./pool.ts";
export * from "./database.ts";
export * from "./artifact.ts";
export { HostClient, HostError, dialBoxPort, type HostAddress } from "./client.ts";
