import { PlatformError } from "@platform/contract";
import { query } from "@platform/postgres";
import type { Platform } from "../platform.ts";

/** Window to its length and the width of one point, seconds. */
const windows: Record<string, { readonly length: number; readonly width: number }> = {
  "1h": { length: 3_600, width: 30 },
  "24h": { length: 86_400, width: 600 },
  "7d": { length: 7 * 86_400, width: 3_600 },
};

interface Point {
  readonly t: Date;
  readonly cpu: number | null;
  readonly memory: number | null;
  readonly disk: number | null;
  readonly processes: number | null;
}

/** Measured points only, oldest first; a stretch that was not measured has none. @throws PlatformError VALIDATION_FAILED */
export async function seriesOf(platform: Platform, sandboxId: string, window: string) {
  const wanted = windows[window];
  if (!wanted)
    throw new PlatformError("VALIDATION_FAILED", `window is one of ${Object.keys(windows).join(", ")}.`, {
      errors: { window: [`is one of ${Object.keys(windows).join(", ")}`] },
    });
  const rows = await query<Point>(
    platform.pool,
    `select date_bin($2 * interval '1 second', at, 'epoch') as t, avg(cpu_percent) as cpu, avg(memory_mb) as memory, avg(disk_mb) as disk,
       max(processes) as processes
     from sandbox_samples where sandbox_id = $1 and at > now() - $3 * interval '1 second' group by 1 order by 1`,
    [sandboxId, wanted.width, wanted.length],
  );
  const line = (pick: (point: Point) => number | null) =>
    rows.flatMap((row) => {
      const value = pick(row);
      return value === null ? [] : [{ t: row.t.toISOString(), value: Math.round(value * 10) / 10 }];
    });
  return {
    cpu_percent: line((row) => row.cpu),
    memory_mb: line((row) => row.memory),
    disk_mb: line((row) => row.disk),
    processes: line((row) => row.processes),
  };
}

/** What a sandbox used in all its boxes; null where nothing was ever measured. */
export async function totalsOf(platform: Platform, sandboxId: string) {
  const [row] = await query<Record<"cpu" | "sent" | "received", string | null>>(
    platform.pool,
    `select cpu_micros + cpu_micros_before as cpu, sent_bytes + sent_before as sent, received_bytes + received_before as received
     from sandbox_counters where sandbox_id = $1`,
    [sandboxId],
  );
  const value = (text: string | null | undefined) => (text == null ? null : Number(text));
  return { cpuMicros: value(row?.cpu), sentBytes: value(row?.sent), receivedBytes: value(row?.received) };
}
