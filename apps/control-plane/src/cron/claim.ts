import { newId } from "@platform/daemon";
import { query, queryOne, transaction } from "@platform/postgres";
import type { PoolClient } from "pg";
import type { Platform } from "../platform.ts";
import { record } from "../events/index.ts";
import { decideDue } from "./due.ts";
import type { CronJobRow, ExecutionRow } from "./store.ts";

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

/** Occurrences that may wait for a run to end. */
const mostQueued = 10;

async function claimOne(
  platform: Platform,
  db: PoolClient,
  job: CronJobRow & { readonly now: Date },
): Promise<void> {
  const { run, missed, hasUnrecorded, next } = decideDue(job, job.now);
  if (next === null) platform.log.warn({ job: job.id }, "a cron job has no next occurrence");
  for (const [at, tick] of missed.entries()) {
    const others = at === 0 && hasUnrecorded ? " There were more before it." : "";
    const error = `No run: the platform was not running at that time.${others} Set missed_policy to make up for it.`;
    await skip(db, job, tick, "missed", error);
  }
  for (const tick of run) await makeExecution(platform, db, job, tick);
  await db.query("update cron_jobs set next_run_at = $2 where id = $1", [job.id, next]);
}

async function makeExecution(platform: Platform, db: PoolClient, job: CronJobRow, tick: Date): Promise<void> {
  const open = await queryOne<{ count: number }>(
    db,
    "select count(*)::int as count from cron_executions where cron_job_id = $1 and state in ('pending', 'running')",
    [job.id],
  );
  const count = open?.count ?? 0;
  if (job.overlap_policy === "skip" && count > 0) {
    const error =
      "No run: the one before had not ended. Let it run less often, or choose another overlap_policy.";
    return skip(db, job, tick, "overlap", error);
  }
  if (job.overlap_policy === "queue" && count > mostQueued) {
    const error = `No run: ${mostQueued} occurrences wait for the run before them already. Let it run less often.`;
    return skip(db, job, tick, "overlap", error);
  }
  if (job.overlap_policy === "replace") {
    // One that has not begun is not needed any more; one that runs is told to end by its control plane.
    await db.query(
      `update cron_executions set state = 'skipped', reason = 'replaced', finished_at = now(),
         error = 'No run: the next occurrence took its place.'
       where cron_job_id = $1 and state = 'pending'`,
      [job.id],
    );
    await db.query(
      "update cron_executions set is_unwanted = true where cron_job_id = $1 and state = 'running'",
      [job.id],
    );
    platform.signals.announce("work:cron");
  }
  await db.query(
    `insert into cron_executions (id, tenant_id, cron_job_id, tick, trigger) values ($1, $2, $3, $4, 'schedule')
     on conflict (cron_job_id, tick) do nothing`,
    [newId(), job.tenant_id, job.id, tick],
  );
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
  const lost = await query<ExecutionRow & { workspace_id: string | null; name: string }>(
    platform.pool,
    `update cron_executions e set state = 'failed', reason = 'lost', finished_at = now(), lease_holder = null,
       error = 'The control plane that watched this run ended. Whether the command finished is not known; it is not repeated.'
     from cron_jobs j where j.id = e.cron_job_id and e.state = 'running' and e.lease_until < now()
     returning e.*, j.workspace_id, j.name`,
  );
  for (const row of lost)
    await record(platform, {
      tenantId: row.tenant_id,
      workspaceId: row.workspace_id,
      type: "cron_job.failed",
      resourceType: "cron_job",
      resourceId: row.cron_job_id,
      data: { id: row.cron_job_id, name: row.name, execution_id: row.id, reason: "lost", exit_code: null },
    });
}

/**
 * Takes one pending execution whose turn it is. The job's row is locked first, so that of one job whose runs
 * must not overlap two control planes never start two.
 */
export async function leaseExecution(
  platform: Platform,
  holder: string,
  leaseSeconds: number,
): Promise<ExecutionRow | null> {
  const candidates = await query<{ id: string; cron_job_id: string }>(
    platform.pool,
    `select e.id, e.cron_job_id from cron_executions e join cron_jobs j on j.id = e.cron_job_id
     where e.state = 'pending' and (e.not_before is null or e.not_before <= now())
       and (j.overlap_policy in ('allow', 'skip') or not exists (
         select from cron_executions r where r.cron_job_id = j.id and r.state = 'running'))
     order by e.created_at, e.tick limit 20`,
  );
  for (const { id, cron_job_id } of candidates) {
    const leased = await transaction(platform.pool, async (db) => {
      const job = await queryOne<CronJobRow>(
        db,
        "select * from cron_jobs where id = $1 for update skip locked",
        [cron_job_id],
      );
      if (!job) return null;
      return queryOne<ExecutionRow>(
        db,
        `update cron_executions set state = 'running', started_at = now(), lease_holder = $2,
           lease_until = now() + make_interval(secs => $3)
         where id = $1 and state = 'pending' and ($4 or not exists (
           select from cron_executions r where r.cron_job_id = $5 and r.state = 'running'))
         returning *`,
        [id, holder, leaseSeconds, ["allow", "skip"].includes(job.overlap_policy), cron_job_id],
      );
    });
    if (leased) return leased;
  }
  return null;
}

/** Keeps thirty days of executions, and of each job at most the newest thousand. */
export async function trimExecutions(platform: Platform): Promise<void> {
  await platform.pool.query(
    `delete from cron_executions e where state not in ('pending', 'running') and (created_at < now() - interval '30 days'
       or id in (select id from (select id, row_number() over (partition by cron_job_id order by created_at desc) as n from cron_executions) x where n > 1000))`,
  );
}
