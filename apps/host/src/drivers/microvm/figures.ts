import type { BoxStats } from "@platform/host-api";

/** What the guest's first process counts; `apps/guest/microvm/box.c` writes the line. */
export function figuresOf(line: string, cpuMicros: number | null): BoxStats {
  const inside = new Map(line.split(" ").map((word) => word.split("=", 2) as [string, string]));
  const number = (name: string) => {
    const value = Number(inside.get(name) ?? Number.NaN);
    return Number.isFinite(value) && value >= 0 ? value : null;
  };
  return {
    memoryBytes: number("memoryBytes"),
    memoryPeakBytes: number("memoryPeakBytes"),
    memoryLimitBytes: number("memoryLimitBytes"),
    cpuMicros,
    processes: number("processes"),
    oomKills: number("oomKills"),
    diskBytes: number("diskBytes"),
  };
}
