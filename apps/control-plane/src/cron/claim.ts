import { newId } from "@platform/daemon";
import { query, queryOne, transaction } from "@platform/postgres";
import type { PoolClient } from "pg";
import type { Platform } from "../platform.ts";
import { nextRun } from "./schedule.ts";
import type { CronJobRow } from "./store.ts";

/** An occurrence that is older than this was missed while no control plane ran, milliseconds. */
const graceMs = 60_000;
const batch = 50;

/**
 * Turns due occurrences into executions. Several control planes may do so at once: a row that one of them
 * looks at is skipped by the others, and an occurrence can be inserted only once.
 *
 * @returns how many jobs were due
 */
export async function claimOccurrences(platform: Platform): Promise<number> {
  return transaction(platform.pool, async (db) => {
    const jobs = await query<CronJobRow & { now: Date }>(
      db,
      `select *, clock_timestamp() as now from cron_jobs where state = 'active' and next_run_at <= now()
       order by next_run_at limit ${batch} for update skip locked`,
    );
    for (const job of jobs) await claimOne(platform, db, job);
    return jobs.length;
  });
}

async function claimOne(
  platform: Platform,
  db: PoolClient,
  job: CronJobRow & { readonly now: Date },
): Promise<void> {
  const tick = job.next_run_at!;
  const isMissed = job.now.getTime() - tick.getTime() > graceMs;
  const isBusy =
    job.overlap_policy === "skip" &&
    (await queryOne(
      db,
      "select true as busy from cron_executions where cron_job_id = $1 and state in ('pending', 'running') limit 1",
      [job.id],
    )) !== null;
  if (isMissed)
    await skip(
      db,
      job,
      tick,
      "missed",
      "No run: the platform was not running at that time. The next occurrence runs.",
    );
  else if (isBusy)
    await skip(
      db,
      job,
      tick,
      "overlap",
      "No run: the one before had not ended. Let it run less often, or allow overlaps.",
    );
  else
    await db.query(
      `insert into cron_executions (id, tenant_id, cron_job_id, tick, trigger) values ($1, $2, $3, $4, 'schedule')
       on conflict (cron_job_id, tick) do nothing`,
      [newId(), job.tenant_id, job.id, tick],
    );
  let next: Date | null = null;
  try {
    next = nextRun(job.schedule, job.timezone, job.now);
  } catch (error) {
    // It was valid once: the zone left the tables, or the last occurrence of all is over.
    platform.log.warn({ err: error, job: job.id }, "a cron job has no next occurrence");
  }
  await db.query("update cron_jobs set next_run_at = $2 where id = $1", [job.id, next]);
}

async function skip(
  db: PoolClient,
  job: CronJobRow,
  tick: Date,
  reason: "missed" | "overlap",
  error: string,
): Promise<void> {
  await db.query(
    `insert into cron_executions (id, tenant_id, cron_job_id, tick, trigger, state, reason, error, finished_at)
     values ($1, $2, $3, $4, 'schedule', 'skipped', $5, $6, now()) on conflict (cron_job_id, tick) do nothing`,
    [newId(), job.tenant_id, job.id, tick, reason, error],
  );
}

/** Ends runs whose control plane stopped renewing them: nobody knows how they went. */
export async function endLostRuns(platform: Platform): Promise<void> {
  await platform.pool.query(
    `update cron_executions set state = 'failed', reason = 'lost', finished_at = now(), lease_holder = null,
       error = 'The control plane that watched this run ended. Whether the command finished is not known; it is not repeated.'
     where state = 'running' and lease_until < now()`,
  );
}

/** Keeps a week of executions, and of each job the newest thousand. */
export async function trimExecutions(platform: Platform): Promise<void> {
  await platform.pool.query(
    `delete from cron_executions e where state not in ('pending', 'running') and (created_at < now() - interval '30 days'
       or id in (select id from (select id, row_number() over (partition by cron_job_id order by created_at desc) as n from cron_executions) x where n > 1000))`,
  );
}
