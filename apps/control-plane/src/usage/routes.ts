import { PlatformError, usageRoutes as r } from "@platform/contract";
import { query, queryOne } from "@platform/postgres";
import { handler, type Caller, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { runTime, spent, visibleRuns, type Group } from "./measure.ts";
import { hourly, noPrices } from "../prices.ts";
import { periodOf, periodView } from "./period.ts";

interface RunRow {
  readonly id: string;
  readonly sandbox_id: string;
  readonly workspace_id: string | null;
  readonly project_id: string | null;
  readonly external_user_id: string | null;
  readonly started_at: Date;
  readonly ended_at: Date | null;
  readonly cpu_count: number;
  readonly memory_mb: number;
}

const defaultGroups: readonly Group[] = ["workspace_id", "external_user_id"];
const rounded = (seconds: number) => Math.round(seconds * 1000) / 1000;

/** Without prices nothing is billed: then credits are 0, not unknown. What is not measured is null. */
const creditsOf = (cents: number) => ({ compute_credits: cents, ai_credits: 0, total_credits: cents });
const everSince = new Date(0);

const counts = (platform: Platform, caller: Caller) =>
  queryOne<Record<string, number>>(
    platform.pool,
    `select (select count(*)::int from sandboxes where tenant_id = $1 and state <> 'destroyed' and ($2::uuid is null or workspace_id = $2)) as sandboxes,
       (select count(*)::int from sandboxes where tenant_id = $1 and state = 'running' and ($2::uuid is null or workspace_id = $2)) as sandboxes_running,
       (select count(*)::int from deployments where tenant_id = $1 and state <> 'deleted' and ($2::uuid is null or workspace_id = $2)) as deployments,
       (select count(*)::int from databases where tenant_id = $1 and state <> 'deleted' and ($2::uuid is null or workspace_id = $2)) as databases`,
    [caller.tenantId, caller.workspaceId],
  );

async function sessions(platform: Platform, caller: Caller, limit: number, cursor: string | undefined) {
  const conditions = visibleRuns(caller);
  if (cursor !== undefined) {
    if (!/^\d{1,18}$/.test(cursor))
      throw new PlatformError("INVALID_FILTER", "cursor was not made by this API. Start again without it.");
    conditions.add("id < $?::bigint", cursor);
  }
  const rows = await query<RunRow>(
    platform.pool,
    `select r.*, (select cpu_count from sandboxes s where s.id = r.sandbox_id) as cpu_count, (select memory_mb from sandboxes s where s.id = r.sandbox_id) as memory_mb
     from sandbox_runs r where ${conditions.sql} order by id desc limit ${limit + 1}`,
    conditions.values,
  );
  const kept = rows.slice(0, limit);
  const prices = platform.settings.prices ?? noPrices;
  const secondsOf = (row: RunRow) =>
    ((row.ended_at?.getTime() ?? Date.now()) - row.started_at.getTime()) / 1000;
  const data = kept.map((row) => ({
    id: row.id,
    resource_type: "sandbox",
    resource_id: row.sandbox_id,
    workspace_id: row.workspace_id,
    project_id: row.project_id,
    external_user_id: row.external_user_id,
    started_at: row.started_at.toISOString(),
    ended_at: row.ended_at?.toISOString() ?? null,
    duration_seconds: rounded(secondsOf(row)),
    credit_cents: Math.round((secondsOf(row) / 3600) * hourly(prices, row)),
  }));
  return { data, ...(rows.length > kept.length ? { next_cursor: kept.at(-1)!.id } : {}) };
}

export function usageHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const { prices = noPrices } = platform.settings;
  return [
    handler(r.usage, async ({ caller, query: filter }) => {
      const period = periodOf(filter);
      const conditions = visibleRuns(caller);
      if (filter.workspace_id) conditions.add("workspace_id::text = $?", filter.workspace_id);
      if (filter.external_user_id) conditions.add("external_user_id = $?", filter.external_user_id);
      const groups = filter.group_by ? [filter.group_by] : defaultGroups;
      const rows = await runTime(pool, conditions, period, groups, filter.bucket === "day", prices);
      return {
        ...periodView(period),
        results: rows.map(({ bucket, seconds, cents, sandboxes, ...group }) => ({
          workspace_id: null,
          external_user_id: null,
          ...group,
          ...(bucket ? { bucket: bucket.toISOString().slice(0, 10) } : {}),
          credit_cents: Math.round(cents),
          sandbox_seconds: rounded(seconds),
          sandbox_count: sandboxes,
          computer_seconds: null,
        })),
      };
    }),
    handler(r.summary, async ({ caller, query: filter }) => {
      const period = periodOf({ start: filter.period_start, end: filter.period_end });
      const [total] = await runTime(pool, visibleRuns(caller), period, [], false);
      const cents = await spent(pool, visibleRuns(caller), period, prices);
      return {
        ...periodView(period),
        ...creditsOf(cents),
        credit_cents: cents,
        sandbox_seconds: rounded(total?.seconds ?? 0),
        sandboxes_used: total?.sandboxes ?? 0,
        computer_seconds: null,
        storage_bytes: null,
        network_bytes: null,
        current: await counts(platform, caller),
      };
    }),
    handler(r.sessions, async ({ caller, query: filter }) =>
      sessions(platform, caller, filter.limit, filter.cursor),
    ),
    handler(r.balance, async ({ caller }) => ({
      balance: 0,
      balance_credits: 0,
      expires_at: null,
      credit_expiry_at: null,
      lifetime_earned: 0,
      lifetime_spent: await spent(pool, visibleRuns(caller), { start: everSince, end: new Date() }, prices),
    })),
    handler(r.transactions, async ({ query: filter }) => ({
      data: [],
      meta: { total: 0, page: filter.page, per_page: filter.per_page },
    })),
    handler(r.creditUsage, async ({ caller, query: filter }) => {
      const period = periodOf({ start: filter.period_start, end: filter.period_end });
      return { ...periodView(period), ...creditsOf(await spent(pool, visibleRuns(caller), period, prices)) };
    }),
  ];
}
