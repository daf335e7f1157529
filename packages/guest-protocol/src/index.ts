export { createGuestClient, type GuestClient, type GuestServices } from "./client.ts";
export { GuestError, type GuestAddress } from "./http.ts";
export type { ExecOptions, ExecResult } from "./exec.ts";
export type * from "./types.ts";
export * from "./gen/process/process_pb.js";
export {
  EntryInfoSchema,
  EventType,
  FilesystemEventSchema,
  FileType,
  Filesystem,
  type EntryInfo,
  type FilesystemEvent,
} from "./gen/filesystem/filesystem_pb.js";
