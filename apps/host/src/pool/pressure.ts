import { readFile } from "node:fs/promises";
import { availableParallelism, loadavg } from "node:os";

export interface Pressure {
  /** What new processes may take without swapping, bytes. */
  readonly freeMemoryBytes: number;
  /** Share of the last ten seconds in which some process waited for a core, 0 to 1. */
  readonly cpuWait: number;
}

/** @throws Error where the kernel does not tell of its memory */
export async function readPressure(): Promise<Pressure> {
  const memory = await readFile("/proc/meminfo", "utf8");
  const available = /^MemAvailable:\s+(\d+) kB/m.exec(memory)?.[1];
  if (available === undefined) throw new Error("/proc/meminfo does not name MemAvailable");
  return { freeMemoryBytes: Number(available) * 1024, cpuWait: await cpuWait() };
}

async function cpuWait(): Promise<number> {
  const text = await readFile("/proc/pressure/cpu", "utf8").catch(() => "");
  const percent = /^some avg10=([\d.]+)/m.exec(text)?.[1];
  if (percent !== undefined) return Number(percent) / 100;
  // Not every kernel accounts for pressure. A queue as long as the cores are many counts as half.
  return Math.min(1, (loadavg()[0] ?? 0) / availableParallelism() / 2);
}
