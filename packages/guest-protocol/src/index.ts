export { createGuestClient, type GuestClient, type GuestServices } from "./client.ts";
export { GuestError, type GuestAddress } from "./http.ts";
export type { ExecOptions, ExecResult } from "./exec.ts";
export type * from "./types.ts";
export * from "./gen/process/process_pb.js";
export * as filesystem from "./gen/filesystem/filesystem_pb.js";
export { Filesystem } from "./gen/filesystem/filesystem_pb.js";
