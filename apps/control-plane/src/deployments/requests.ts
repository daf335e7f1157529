import { PlatformError } from "@platform/contract";
import { query, queryOne, type Queryable } from "@platform/postgres";

interface RequestRow {
  readonly at: Date;
  readonly method: string;
  readonly hostname: string;
  readonly path: string;
  readonly status: number;
  readonly duration_ms: number;
  readonly bytes: string;
  readonly release_id: string | null;
  readonly request_id: string;
}

const toRequest = (row: RequestRow) => ({
  timestamp: row.at.toISOString(),
  method: row.method,
  path: row.path,
  status: row.status,
  duration_ms: row.duration_ms,
  bytes: Number(row.bytes),
  release_id: row.release_id,
  request_id: row.request_id,
});

/** The newest first. */
export async function recentRequests(db: Queryable, deploymentId: string, limit: number) {
  const rows = await query<RequestRow>(
    db,
    "select * from request_logs where deployment_id = $1 order by seq desc limit $2",
    [deploymentId, limit],
  );
  return rows.map(toRequest);
}

/** @throws PlatformError `NOT_FOUND` when no request of the deployment has that id, or not yet */
export async function requestById(db: Queryable, deploymentId: string, requestId: string) {
  const row = await queryOne<RequestRow>(
    db,
    "select * from request_logs where deployment_id = $1 and request_id = $2 order by seq desc limit 1",
    [deploymentId, requestId],
  );
  if (!row)
    throw new PlatformError(
      "NOT_FOUND",
      `No request ${requestId} is in the log of this deployment. Edges deliver their logs every two seconds, and a week is kept.`,
    );
  return { ...toRequest(row), hostname: row.hostname };
}

/** Length of a window and of one point of its series, seconds. */
const windows: Readonly<Record<string, { seconds: number; step: number }>> = {
  "1h": { seconds: 3_600, step: 60 },
  "24h": { seconds: 86_400, step: 1_800 },
  "7d": { seconds: 7 * 86_400, step: 10_800 },
};

interface Figures {
  readonly count: string;
  readonly errors: string;
  readonly bytes: string | null;
  readonly p50: number | null;
  readonly p95: number | null;
  readonly p99: number | null;
}

const figures = `count(*) as count, count(*) filter (where status >= 500) as errors, sum(bytes) as bytes,
  percentile_cont(0.5) within group (order by duration_ms) as p50, percentile_cont(0.95) within group (order by duration_ms) as p95,
  percentile_cont(0.99) within group (order by duration_ms) as p99`;

/** What a deployment's visitors saw. A window that is not known is the last hour. */
export async function trafficOf(db: Queryable, deploymentId: string, window: string) {
  const { seconds, step } = windows[window] ?? windows["1h"]!;
  const where = "deployment_id = $1 and at > now() - make_interval(secs => $2)";
  const all = await queryOne<Figures>(db, `select ${figures} from request_logs where ${where}`, [
    deploymentId,
    seconds,
  ]);
  const points = await query<Figures & { t: Date }>(
    db,
    `select to_timestamp(floor(extract(epoch from at) / $3) * $3) as t, ${figures} from request_logs where ${where} group by 1 order by 1`,
    [deploymentId, seconds, step],
  );
  const series = (pick: (point: Figures) => number | null) =>
    points.map((point) => ({ t: point.t.toISOString(), value: pick(point) }));
  return {
    requests: {
      count: Number(all?.count ?? 0),
      errors: Number(all?.errors ?? 0),
      bytes: Number(all?.bytes ?? 0),
      p50_ms: all?.p50 ?? null,
      p95_ms: all?.p95 ?? null,
      p99_ms: all?.p99 ?? null,
    },
    series: {
      requests: series(({ count }) => Number(count)),
      errors: series(({ errors }) => Number(errors)),
      bytes: series(({ bytes }) => Number(bytes)),
      p50_ms: series(({ p50 }) => p50),
      p95_ms: series(({ p95 }) => p95),
      p99_ms: series(({ p99 }) => p99),
    },
  };
}
