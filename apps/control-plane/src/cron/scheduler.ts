import { randomUUID } from "node:crypto";
import { faultPoint, Wakeup } from "@platform/daemon";
import { query } from "@platform/postgres";
import { record } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { claimOccurrences, endLostRuns } from "./claim.ts";
import { runJob, type Outcome } from "./run.ts";
import { loadJob, type CronJobRow, type ExecutionRow } from "./store.ts";

const lookMs = 1_000;
const leaseSeconds = 10;
const renewMs = 2_500;
const concurrency = 16;

/**
 * Makes executions of due occurrences and runs them. Any number of control planes may do so on one
 * database: each occurrence becomes one row, and each row is run by whoever leases it first, once.
 */
export class CronScheduler {
  readonly #platform: Platform;
  readonly #holder = randomUUID();
  readonly #wakeup = new Wakeup();
  readonly #stop = new AbortController();
  readonly #running = new Set<Promise<void>>();
  #loop: Promise<void> = Promise.resolve();

  constructor(platform: Platform) {
    this.#platform = platform;
    platform.signals.on("work:cron", () => this.#wakeup.wake());
  }

  start(): void {
    this.#loop = this.#run();
  }

  /** Commands that still run are ended, and recorded as lost. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#wakeup.wake();
    await this.#loop;
    await Promise.allSettled(this.#running);
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        await endLostRuns(this.#platform);
        await claimOccurrences(this.#platform);
        while (this.#running.size < concurrency) {
          const execution = await this.#lease();
          if (!execution) break;
          const work = this.#execute(execution).finally(() => {
            this.#running.delete(work);
            this.#wakeup.wake();
          });
          this.#running.add(work);
        }
      } catch (error) {
        if (!this.#stop.signal.aborted) this.#platform.log.warn({ err: error }, "cannot look for cron work");
      }
      await this.#wakeup.wait(lookMs, this.#stop.signal);
    }
  }

  async #lease(): Promise<ExecutionRow | null> {
    const rows = await query<ExecutionRow>(
      this.#platform.pool,
      `update cron_executions set state = 'running', started_at = now(), lease_holder = $1,
         lease_until = now() + interval '${leaseSeconds} seconds'
       where id = (select id from cron_executions where state = 'pending' order by created_at limit 1 for update skip locked)
       returning *`,
      [this.#holder],
    );
    return rows[0] ?? null;
  }

  async #execute(execution: ExecutionRow): Promise<void> {
    const { pool, log } = this.#platform;
    faultPoint("control-plane.cron.leased");
    const lost = new AbortController();
    const signal = AbortSignal.any([lost.signal, this.#stop.signal]);
    const renewal = setInterval(() => {
      void pool
        .query(
          `update cron_executions set lease_until = now() + interval '${leaseSeconds} seconds'
           where id = $1 and lease_holder = $2 and state = 'running'`,
          [execution.id, this.#holder],
        )
        .then((result) => {
          // Taken as lost by another, or deleted with its job: nobody waits for this run any more.
          if (result.rowCount === 0) lost.abort();
        })
        .catch((error: unknown) =>
          log.warn({ err: error, execution: execution.id }, "cannot renew a cron run"),
        );
    }, renewMs);
    try {
      const job = await loadJob(pool, execution.cron_job_id);
      if (!job) return;
      const startedMs = performance.now();
      const outcome = await runJob(this.#platform, job, execution, signal);
      await this.#finish(job, execution, outcome, performance.now() - startedMs);
    } catch (error) {
      // Its lease ends, and it is then recorded as lost.
      log.warn({ err: error, execution: execution.id }, "a cron run was cut short");
    } finally {
      clearInterval(renewal);
    }
  }

  async #finish(
    job: CronJobRow,
    execution: ExecutionRow,
    outcome: Outcome,
    durationMs: number,
  ): Promise<void> {
    const { pool, signals } = this.#platform;
    const stored = await pool.query(
      `update cron_executions set state = $3, reason = $4, error = $5, exit_code = $6, output = $7, output_truncated = $8,
         finished_at = now(), duration_ms = $9, lease_holder = null, lease_until = null
       where id = $1 and lease_holder = $2 and state = 'running'`,
      [
        execution.id,
        this.#holder,
        outcome.state,
        outcome.reason,
        outcome.error,
        outcome.exitCode,
        outcome.output,
        outcome.truncated,
        durationMs,
      ],
    );
    if (stored.rowCount !== 1) return;
    await pool.query("update cron_jobs set last_run_at = $2 where id = $1", [job.id, execution.started_at]);
    signals.announce(`cron:${execution.id}`);
    await record(this.#platform, {
      tenantId: job.tenant_id,
      workspaceId: job.workspace_id,
      type: `cron_job.${outcome.state}`,
      resourceType: "cron_job",
      resourceId: job.id,
      data: {
        id: job.id,
        name: job.name,
        execution_id: execution.id,
        reason: outcome.reason,
        exit_code: outcome.exitCode,
      },
    });
  }
}
