import { notFound, PlatformError } from "@platform/contract";
import { queryOne, type Queryable } from "@platform/postgres";
import type { Caller } from "../http/index.ts";
import { isUuid, mayUse, type OwnedRow } from "../tenants/index.ts";

export interface CronJobRow extends OwnedRow {
  readonly name: string;
  readonly schedule: string;
  readonly timezone: string;
  readonly command: string;
  readonly env_sealed: Buffer;
  readonly target_type: "sandbox" | "deployment";
  readonly target_id: string;
  readonly state: "active" | "paused";
  readonly overlap_policy: "skip" | "queue" | "replace" | "allow";
  readonly missed_policy: "skip" | "once" | "all";
  readonly missed_limit: number;
  readonly max_retries: number;
  readonly retry_delay_sec: number;
  /** An `HttpCall`; null for a job that runs its command. */
  readonly http_sealed: Buffer | null;
  readonly timeout_sec: number;
  readonly next_run_at: Date | null;
  readonly last_run_at: Date | null;
}

export interface ExecutionRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly cron_job_id: string;
  /** The occurrence; null for one that was asked for. */
  readonly tick: Date | null;
  readonly trigger: "schedule" | "manual";
  readonly state: "pending" | "running" | "succeeded" | "failed" | "skipped";
  /** From 1. */
  readonly attempt: number;
  readonly attempts: { attempt: number; reason: string | null; error: string | null; finished_at: string }[];
  readonly release_id: string | null;
  readonly reason: string | null;
  readonly output: string | null;
  readonly output_truncated: boolean;
  readonly error: string | null;
  readonly exit_code: number | null;
  readonly started_at: Date | null;
  readonly finished_at: Date | null;
  readonly duration_ms: number | null;
  readonly created_at: Date;
}

export const loadJob = (db: Queryable, id: string) =>
  queryOne<CronJobRow>(db, "select * from cron_jobs where id = $1", [id]);
export const loadExecution = (db: Queryable, id: string) =>
  queryOne<ExecutionRow>(db, "select * from cron_executions where id = $1", [id]);

/** @throws PlatformError INVALID_ID, NOT_FOUND */
export async function ownJob(db: Queryable, caller: Caller, id: string): Promise<CronJobRow> {
  if (!isUuid(id))
    throw new PlatformError(
      "INVALID_ID",
      `"${id.slice(0, 100)}" is not a UUID. Use an id from GET /cron-jobs.`,
    );
  const row = await loadJob(db, id);
  if (!row || !mayUse(caller, row)) throw notFound(`Cron job ${id}`);
  return row;
}

export const jobView = (row: CronJobRow) => ({
  id: row.id,
  tenant_id: row.tenant_id,
  workspace_id: row.workspace_id,
  project_id: row.project_id,
  external_workspace_id: row.external_workspace_id,
  external_user_id: row.external_user_id,
  external_project_id: row.external_project_id,
  name: row.name,
  schedule: row.schedule,
  timezone: row.timezone,
  command: row.command,
  computer_id: row.target_id,
  sandbox_id: row.target_type === "sandbox" ? row.target_id : null,
  deployment_id: row.target_type === "deployment" ? row.target_id : null,
  state: row.state,
  status: row.state,
  paused: row.state === "paused",
  kind: row.http_sealed === null ? "command" : "http",
  overlap_policy: row.overlap_policy,
  missed_policy: row.missed_policy,
  missed_limit: row.missed_limit,
  max_retries: row.max_retries,
  retry_delay_sec: row.retry_delay_sec,
  timeout_sec: row.timeout_sec,
  last_run_at: row.last_run_at?.toISOString() ?? null,
  next_run_at: row.next_run_at?.toISOString() ?? null,
  metadata: row.metadata,
  created_at: row.created_at.toISOString(),
  inserted_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
});

export const executionView = (row: ExecutionRow) => ({
  id: row.id,
  cron_job_id: row.cron_job_id,
  state: row.state,
  status: row.state,
  reason: row.reason,
  trigger: row.trigger,
  attempt: row.attempt,
  attempts: row.attempts,
  release_id: row.release_id,
  scheduled_for: row.tick?.toISOString() ?? null,
  started_at: row.started_at?.toISOString() ?? null,
  finished_at: row.finished_at?.toISOString() ?? null,
  duration_ms: row.duration_ms === null ? null : Math.round(row.duration_ms),
  exit_code: row.exit_code,
  output: row.output,
  output_truncated: row.output_truncated,
  error: row.error,
  created_at: row.created_at.toISOString(),
});
