import { open, truncate } from "node:fs/promises";
import { join } from "node:path";
import type { BoxFailure } from "@platform/host-api";
import { z } from "zod";
import type { BoxFolders } from "../driver.ts";

/** Beyond this many bytes the guest's console is begun anew: a guest may write what it likes there. */
const maxConsoleBytes = 1024 * 1024;
const tailBytes = 16 * 1024;

/** Line in which the guest's first process says how it ended; apps/guest/microvm writes it. */
const End = z.object({
  boot: z.string().optional(),
  exit: z.int().optional(),
  signal: z.int().optional(),
  outOfMemory: z.boolean().optional(),
  oomKills: z.int().optional(),
});

export const consolePath = (folders: Pick<BoxFolders, "log">): string => join(folders.log, "agent.log");

/** The end of what the guest's console said. */
export async function consoleTail(folders: Pick<BoxFolders, "log">): Promise<string> {
  try {
    const file = await open(consolePath(folders), "r");
    try {
      const { size } = await file.stat();
      const bytes = Buffer.alloc(Math.min(size, tailBytes));
      await file.read(bytes, 0, bytes.length, size - bytes.length);
      return bytes.toString("utf8");
    } finally {
      await file.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

/** The monitor appends to the file, so it goes on at the new end. */
export async function boundConsole(folders: Pick<BoxFolders, "log">): Promise<void> {
  const file = await open(consolePath(folders), "r").catch(() => null);
  if (!file) return;
  try {
    const { size } = await file.stat();
    if (size > maxConsoleBytes) await truncate(consolePath(folders), 0);
  } finally {
    await file.close();
  }
}

function endLine(tail: string): z.output<typeof End> | null {
  const line = tail
    .split("\n")
    .findLast((entry) => entry.startsWith("@end "))
    ?.slice(5);
  if (line === undefined) return null;
  try {
    return End.parse(JSON.parse(line));
  } catch {
    return null; // Cut off by the end of the machine.
  }
}

/** Why a machine ended, from its console and the counter of its control group. */
export function explainEnd(
  tail: string,
  monitorOomKills: number,
  figures: Record<string, unknown>,
): BoxFailure {
  const end = endLine(tail);
  const evidence = { ...figures, end };
  if (end?.outOfMemory) {
    const detail = "The guest's kernel killed the box's agent for want of memory. Raise its memory limit.";
    return { reason: "oom", detail, evidence };
  }
  if (monitorOomKills > 0) {
    const detail = "The kernel killed the box's virtual machine for want of memory. Raise its memory limit.";
    return { reason: "oom", detail, evidence };
  }
  if (end?.boot !== undefined) {
    return { reason: "boot_failed", detail: `The virtual machine could not start: ${end.boot}.`, evidence };
  }
  if (end && (end.signal ?? 0) === 0 && (end.exit ?? 0) < 128) {
    return { reason: "exited", detail: `The box's agent ended with exit code ${end.exit ?? 0}.`, evidence };
  }
  if (end) return { reason: "killed", detail: "The box's agent was killed by a signal.", evidence };
  if (/Kernel panic/.test(tail)) {
    return { reason: "guest_lost", detail: "The kernel of the box's virtual machine stopped.", evidence };
  }
  return { reason: "killed", detail: "The box's virtual machine was killed.", evidence };
}
