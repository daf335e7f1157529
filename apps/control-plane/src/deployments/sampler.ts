import { query } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import type { DeploymentRow, InstanceRow } from "./store.ts";

const usualEveryMs = 30_000;
const mib = 1024 * 1024;

/** A point of the kernel's figures for each instance that serves, when its time has come. */
export async function sampleInstances(
  platform: Platform,
  row: DeploymentRow,
  instances: readonly InstanceRow[],
  signal: AbortSignal,
): Promise<void> {
  const everyMs = platform.settings.sampleEveryMs ?? usualEveryMs;
  for (const one of instances) {
    const last = one.sampled_at?.getTime() ?? 0;
    if (Date.now() - last < everyMs) continue;
    const stats = await platform.host.stats(one.box_key, signal).catch(() => null);
    if (!stats) continue;
    const micros = one.cpu_micros === null ? null : Number(one.cpu_micros);
    const isSteady = micros !== null && stats.cpuMicros !== null && stats.cpuMicros >= micros && last > 0;
    const percent = isSteady ? Math.round((stats.cpuMicros! - micros) / (Date.now() - last)) / 10 : null;
    await platform.pool.query(
      `insert into instance_samples (instance_id, deployment_id, at, cpu_percent, memory_mb, processes) values ($1, $2, now(), $3, $4, $5) on conflict do nothing`,
      [
        one.id,
        row.id,
        percent,
        stats.memoryBytes === null ? null : Math.round((stats.memoryBytes / mib) * 10) / 10,
        stats.processes,
      ],
    );
    await platform.pool.query("update instances set sampled_at = now(), cpu_micros = $2 where id = $1", [
      one.id,
      stats.cpuMicros,
    ]);
  }
}

const windows: Record<string, { readonly length: number; readonly width: number }> = {
  "1h": { length: 3_600, width: 30 },
  "24h": { length: 86_400, width: 600 },
  "7d": { length: 7 * 86_400, width: 3_600 },
};

interface Point {
  readonly t: Date;
  readonly value: number | null;
}

/** Measured points only, oldest first; figures of instances are sums. An unknown window counts as an hour. */
export async function deploymentSeries(platform: Platform, id: string, window: string) {
  const { length, width } = windows[window] ?? windows["1h"]!;
  const points = async (sql: string) =>
    (await query<Point>(platform.pool, sql, [id, width, length])).flatMap(({ t, value }) =>
      value === null ? [] : [{ t: t.toISOString(), value: Math.round(value * 10) / 10 }],
    );
  const sampled = (column: string) =>
    points(
      `select t, sum(value) as value from (
         select date_bin($2 * interval '1 second', at, 'epoch') as t, instance_id, avg(${column}) as value
         from instance_samples where deployment_id = $1 and at > now() - $3 * interval '1 second' group by 1, 2) x group by 1 order by 1`,
    );
  const asked = (value: string) =>
    points(
      `select date_bin($2 * interval '1 second', at, 'epoch') as t, (${value})::float8 as value
       from request_logs where deployment_id = $1 and at > now() - $3 * interval '1 second' group by 1 order by 1`,
    );
  return {
    cpu_percent: await sampled("cpu_percent"),
    memory_mb: await sampled("memory_mb"),
    processes: await sampled("processes"),
    instances: await points(
      `select date_bin($2 * interval '1 second', at, 'epoch') as t, count(distinct instance_id)::float8 as value
       from instance_samples where deployment_id = $1 and at > now() - $3 * interval '1 second' group by 1 order by 1`,
    ),
    requests: await asked("count(*)"),
    errors: await asked("count(*) filter (where status >= 500)"),
    p95_ms: await asked("percentile_cont(0.95) within group (order by duration_ms)"),
  };
}
