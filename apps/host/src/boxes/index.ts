export { Boxes, type BoxesOptions, type StillBox } from "./boxes.ts";
export type { LiveBox } from "./live-box.ts";
export { RecordStore } from "./record.ts";
export { copyTree, removeTree, replaceTree, diskUsage, type ContentSource } from "./folders.ts";
export { GuestConnection } from "./guest-connection.ts";
