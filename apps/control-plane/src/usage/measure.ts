import { query, type Queryable } from "@platform/postgres";
import { noPrices, perSecond, type Prices } from "../prices.ts";
import { Conditions } from "../tenants/index.ts";
import type { Caller } from "../http/index.ts";
import type { Period } from "./period.ts";

export type Group =
  "workspace_id" | "project_id" | "external_user_id" | "external_workspace_id" | "external_project_id";

export interface RunTime {
  readonly bucket: Date | null;
  readonly seconds: number;
  readonly cents: number;
  readonly sandboxes: number;
  readonly [group: string]: unknown;
}

/** Runs that the caller may see. */
export function visibleRuns(caller: Caller): Conditions {
  const conditions = new Conditions().add("tenant_id = $?", caller.tenantId);
  if (caller.workspaceId) conditions.add("workspace_id = $?", caller.workspaceId);
  if (caller.externalUserId) conditions.add("external_user_id = $?", caller.externalUserId);
  return conditions;
}

/**
 * Seconds that sandboxes really ran within the period, from when each run began and ended. A run that
 * goes on counts up to now.
 *
 * @param perDay one row a day (UTC) instead of one for the whole period
 */
export async function runTime(
  db: Queryable,
  conditions: Conditions,
  period: Period,
  groups: readonly Group[],
  perDay: boolean,
  prices: Prices = noPrices,
): Promise<RunTime[]> {
  const names = groups.join(", ");
  const at = conditions.values.length;
  const rows = await query<RunTime>(
    db,
    `with slot as (
       ${
         perDay
           ? `select day as bucket, greatest(day, $${at + 1}::timestamptz) as starts, least(day + interval '1 day', $${at + 2}::timestamptz) as ends
              from generate_series(date_trunc('day', $${at + 1}::timestamptz, 'UTC'), $${at + 2}::timestamptz, interval '1 day') as day`
           : `select null::timestamptz as bucket, $${at + 1}::timestamptz as starts, $${at + 2}::timestamptz as ends`
       }), run as (
       select *, coalesce(ended_at, greatest(now(), started_at)) as until from metered
       where resource_type = 'sandbox' and ${conditions.sql}), part as (
       select slot.bucket, run.*, extract(epoch from least(run.until, slot.ends) - greatest(run.started_at, slot.starts))::float8 as lasted
       from slot join run on run.started_at < slot.ends and run.until > slot.starts)
     select bucket${names ? `, ${names}` : ""}, count(distinct resource_id)::int as sandboxes,
       sum(lasted)::float8 as seconds, sum(lasted * ${perSecond(prices)})::float8 as cents
     from part
     group by bucket${names ? `, ${names}` : ""} order by bucket${names ? `, ${names}` : ""}`,
    [...conditions.values, period.start, period.end],
  );
  return rows;
}

/** Cents of everything that ran within the period, by kind of resource. */
export async function spent(
  db: Queryable,
  conditions: Conditions,
  period: Period,
  prices: Prices = noPrices,
): Promise<number> {
  const at = conditions.values.length;
  const [row] = await query<{ cents: number | null }>(
    db,
    `select sum(extract(epoch from least(coalesce(ended_at, now()), $${at + 2}) - greatest(started_at, $${at + 1})) * ${perSecond(prices)})::float8 as cents
     from metered where ${conditions.sql} and started_at < $${at + 2} and coalesce(ended_at, now()) > $${at + 1}`,
    [...conditions.values, period.start, period.end],
  );
  return Math.round(row?.cents ?? 0);
}
