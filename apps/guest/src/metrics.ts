import { readFile, statfs } from "node:fs/promises";
import { availableParallelism } from "node:os";

let previous: { busy: number; total: number } | null = null;

/** envd's figures, as the kernel shows them inside the box. `cpu_used_pct` is since the last call. */
export async function readMetrics(workdir: string): Promise<Record<string, number>> {
  const [cpu, memory, disk] = await Promise.all([
    readFile("/proc/stat", "utf8"),
    readFile("/proc/meminfo", "utf8"),
    statfs(workdir).catch(() => statfs("/")),
  ]);
  const ticks = (cpu.split("\n", 1)[0] ?? "").trim().split(/\s+/).slice(1).map(Number);
  const total = ticks.reduce((sum, value) => sum + value, 0);
  const busy = total - (ticks[3] ?? 0) - (ticks[4] ?? 0);
  const since = previous ?? { busy: 0, total: 0 };
  previous = { busy, total };
  const used = total > since.total ? (busy - since.busy) / (total - since.total) : 0;
  const bytes = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(memory)?.[1] ?? 0) * 1024;
  const memoryTotal = bytes("MemTotal");
  const memoryUsed = memoryTotal - bytes("MemAvailable");
  return {
    ts: Math.floor(Date.now() / 1000),
    cpu_count: availableParallelism(),
    cpu_used_pct: Math.round(used * 10_000) / 100,
    mem_total: memoryTotal,
    mem_used: memoryUsed,
    mem_cache: bytes("Cached"),
    mem_total_mib: Math.floor(memoryTotal / 1024 / 1024),
    mem_used_mib: Math.floor(memoryUsed / 1024 / 1024),
    disk_used: (disk.blocks - disk.bfree) * disk.bsize,
    disk_total: disk.blocks * disk.bsize,
  };
}
