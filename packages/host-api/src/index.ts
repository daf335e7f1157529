export * from "./box.ts";
export * from "./pool.ts";
export * from "./database.ts";
export * from "./frames.ts";
export * from "./artifact.ts";
export * from "./image.ts";
export * from "./fence.ts";
export * from "./door.ts";
export { HostClient, HostError, dialBoxPort, type BoxDoor, type HostAddress } from "./client.ts";
