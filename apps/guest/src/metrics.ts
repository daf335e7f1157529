import { readdir, readFile, statfs } from "node:fs/promises";
import { availableParallelism } from "node:os";
import type { GuestLimits } from "@platform/guest-protocol";

/** Processor time and total time so far, in one unit; only their growth between two looks means anything. */
interface Work {
  readonly busy: number;
  readonly total: number;
}
let previous: Work | null = null;

const kib = 1024;
const mib = 1024 * 1024;
/** Ticks a second of the kernel's interfaces to programs, on every architecture. */
const ticksPerSecond = 100;

/**
 * envd's figures. Where the box has a kernel of its own, as that shows them; where it shares the machine's,
 * whose figures are the machine's, from the box's own processes and limits. `cpu_used_pct` is since the last call.
 */
export async function readMetrics(
  workdir: string,
  limits: GuestLimits | null,
): Promise<Record<string, number>> {
  const [memory, disk] = await Promise.all([
    readFile("/proc/meminfo", "utf8"),
    statfs(workdir).catch(() => statfs("/")),
  ]);
  const bytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(memory)?.[1] ?? 0) * kib;
  const kernelTotal = bytes("MemTotal");
  // A kernel of the box's own has a little less than the limit, never more.
  const isShared = limits !== null && kernelTotal > limits.memoryBytes;
  const used = isShared ? await usedByProcesses() : null;
  const cpuCount = isShared ? Math.max(1, Math.round(limits.cpuMillis / 1000)) : availableParallelism();
  const work = used
    ? { busy: used.ticks, total: (performance.now() / 1000) * ticksPerSecond * (limits!.cpuMillis / 1000) }
    : await kernelWork();
  const memoryTotal = isShared ? limits.memoryBytes : kernelTotal;
  const memoryUsed = used ? used.bytes : kernelTotal - bytes("MemAvailable");
  return {
    ts: Math.floor(Date.now() / 1000),
    cpu_count: cpuCount,
    cpu_used_pct: shareSince(work),
    mem_total: memoryTotal,
    mem_used: memoryUsed,
    // A shared kernel does not tell whose cache it holds.
    mem_cache: isShared ? 0 : bytes("Cached"),
    mem_total_mib: Math.floor(memoryTotal / mib),
    mem_used_mib: Math.floor(memoryUsed / mib),
    disk_used: (disk.blocks - disk.bfree) * disk.bsize,
    disk_total: disk.blocks * disk.bsize,
  };
}

/** Per cent, two decimals. */
function shareSince(now: Work): number {
  const since = previous ?? { busy: 0, total: 0 };
  previous = now;
  const used = now.total > since.total ? (now.busy - since.busy) / (now.total - since.total) : 0;
  return Math.round(Math.min(1, Math.max(0, used)) * 10_000) / 100;
}

async function kernelWork(): Promise<Work> {
  const cpu = await readFile("/proc/stat", "utf8");
  const ticks = (cpu.split("\n", 1)[0] ?? "").trim().split(/\s+/).slice(1).map(Number);
  const total = ticks.reduce((sum, value) => sum + value, 0);
  return { total, busy: total - (ticks[3] ?? 0) - (ticks[4] ?? 0) };
}

/** Of all processes of the box: memory, shared pages counted once, and processor time with that of their ended children. */
async function usedByProcesses(): Promise<{ bytes: number; ticks: number }> {
  let memory = 0;
  let ticks = 0;
  for (const pid of await readdir("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    // What ends while it is looked at, or forbids it, counts nothing.
    const read = (name: string) => readFile(`/proc/${pid}/${name}`, "utf8").catch(() => "");
    const [rollup, stat] = await Promise.all([read("smaps_rollup"), read("stat")]);
    memory += Number(/^Pss:\s+(\d+)/m.exec(rollup)?.[1] ?? 0) * kib;
    // Behind the name, which may hold anything: utime, stime, cutime, cstime are fields 14 to 17.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    ticks += fields.slice(11, 15).reduce((sum, field) => sum + (Number(field) || 0), 0);
  }
  return { bytes: memory, ticks };
}
