export { Disks, type DiskUsage } from "./disks.ts";
export { maxFilesOf } from "./image.ts";
