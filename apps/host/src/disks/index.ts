export { Disks, type DiskUsage, type Volume } from "./disks.ts";
export { maxFilesOf } from "./image.ts";
