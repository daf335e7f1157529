import { readFile } from "node:fs/promises";

/** Descriptors for what is no connection of a client: files, idle connections to apps, the control plane. */
const OTHER_FILES = 1_000;

/**
 * As many connections as this process has descriptors for: each needs one for the client, one for the app. Without
 * this limit the app that takes the last one would leave none to reach another app with.
 */
export async function connectionsWithin(): Promise<number> {
  const limits = await readFile("/proc/self/limits", "utf8");
  const hard = /^Max open files\s+\S+\s+(\d+)/m.exec(limits)?.[1];
  return hard === undefined ? Infinity : Math.max(100, Math.floor((Number(hard) - OTHER_FILES) / 2));
}
