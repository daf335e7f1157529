import { randomUUID } from "node:crypto";
import { faultPoint, Wakeup } from "@platform/daemon";
import { queryOne } from "@platform/postgres";
import { record } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { claimOccurrences, endLostRuns, leaseExecution } from "./claim.ts";
import { runJob, type Outcome } from "./run.ts";
import { loadJob, type CronJobRow, type ExecutionRow } from "./store.ts";

const lookMs = 1_000;
const leaseSeconds = 10;
const renewMs = 2_500;
const concurrency = 16;

const replaced: Outcome = {
  state: "failed",
  reason: "replaced",
  error: "Ended: the next occurrence took its place, as the job's overlap_policy says.",
  exitCode: null,
  output: "",
  truncated: false,
};

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
          const execution = await leaseExecution(this.#platform, this.#holder, leaseSeconds);
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

  async #execute(execution: ExecutionRow): Promise<void> {
    const { pool, log } = this.#platform;
    faultPoint("control-plane.cron.leased");
    const lost = new AbortController();
    const unwanted = new AbortController();
    const signal = AbortSignal.any([lost.signal, unwanted.signal, this.#stop.signal]);
    const renew = async () => {
      const row = await queryOne<{ is_unwanted: boolean }>(
        pool,
        `update cron_executions set lease_until = now() + interval '${leaseSeconds} seconds'
         where id = $1 and lease_holder = $2 and state = 'running' returning is_unwanted`,
        [execution.id, this.#holder],
      );
      // Taken as lost by another, or deleted with its job: nobody waits for this run any more.
      if (!row) lost.abort();
      else if (row.is_unwanted) unwanted.abort();
    };
    const renewal = setInterval(() => {
      renew().catch((error: unknown) =>
        log.warn({ err: error, execution: execution.id }, "cannot renew a cron run"),
      );
    }, renewMs);
    const startedMs = performance.now();
    try {
      const job = await loadJob(pool, execution.cron_job_id);
      if (!job) return;
      const isReplaced = () => unwanted.signal.aborted && !lost.signal.aborted;
      const outcome = await runJob(this.#platform, job, execution, signal).catch((error: unknown) => {
        if (isReplaced()) return replaced;
        throw error;
      });
      const told = isReplaced() && outcome.state === "failed" ? replaced : outcome;
      await this.#finish(job, execution, told, performance.now() - startedMs);
    } catch (error) {
      // Its lease ends, and it is then recorded as lost.
      log.warn({ err: error, execution: execution.id }, "a cron run was cut short");
    } finally {
      clearInterval(renewal);
    }
  }

  /** A failure that may be tried again goes back to wait; its own record stays with it. @returns whether it did */
  async #retry(job: CronJobRow, execution: ExecutionRow, outcome: Outcome): Promise<boolean> {
    const mayRetry =
      outcome.state === "failed" &&
      execution.attempt <= job.max_retries &&
      !["target_gone", "replaced"].includes(outcome.reason ?? "");
    if (!mayRetry) return false;
    const delaySeconds = Math.min(job.retry_delay_sec * 2 ** (execution.attempt - 1), 86_400);
    const stored = await this.#platform.pool.query(
      `update cron_executions set state = 'pending', attempt = attempt + 1, lease_holder = null, lease_until = null,
         not_before = now() + make_interval(secs => $3), reason = $4, error = $5, exit_code = $6, output = $7,
         attempts = attempts || jsonb_build_object('attempt', attempt, 'reason', $4::text, 'error', $5::text, 'finished_at', now())
       where id = $1 and lease_holder = $2 and state = 'running' and not is_unwanted`,
      [
        execution.id,
        this.#holder,
        delaySeconds,
        outcome.reason,
        outcome.error,
        outcome.exitCode,
        outcome.output,
      ],
    );
    return stored.rowCount === 1;
  }

  async #finish(
    job: CronJobRow,
    execution: ExecutionRow,
    outcome: Outcome,
    durationMs: number,
  ): Promise<void> {
    const { pool, signals } = this.#platform;
    if (await this.#retry(job, execution, outcome)) return;
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
        attempt: execution.attempt,
        reason: outcome.reason,
        error: outcome.error,
        exit_code: outcome.exitCode,
      },
    });
  }
}
