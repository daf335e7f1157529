import type { Migration } from "@platform/postgres";

const owned = `
  id uuid primary key,
  tenant_id uuid not null references tenants,
  workspace_id uuid,
  project_id uuid,
  external_workspace_id text,
  external_user_id text,
  external_project_id text,
  metadata jsonb not null default '{}',
  generation bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()`;

/** Buckets, cron jobs and custom domains. */
export const resourcesMigration: Migration = {
  name: "0003-resources",
  sql: `
create table buckets (${owned},
  name text not null, store_name text not null unique, region text not null, visibility text not null, quota_bytes bigint,
  state text not null default 'creating');
create unique index buckets_name on buckets (tenant_id, name);

create table cron_jobs (${owned},
  name text not null, schedule text not null, timezone text not null, command text not null, env_sealed bytea not null,
  target_type text not null, target_id uuid not null, state text not null default 'active', overlap_policy text not null default 'skip',
  timeout_sec integer not null, next_run_at timestamptz, last_run_at timestamptz);
create index cron_jobs_due on cron_jobs (next_run_at) where state = 'active';
create table cron_executions (
  id uuid primary key, tenant_id uuid not null, cron_job_id uuid not null references cron_jobs on delete cascade, tick timestamptz,
  trigger text not null, state text not null default 'pending', reason text, output text, output_truncated boolean not null default false,
  error text, exit_code integer, started_at timestamptz, finished_at timestamptz, duration_ms double precision,
  lease_holder text, lease_until timestamptz, created_at timestamptz not null default now(), unique (cron_job_id, tick));
create index cron_executions_by_job on cron_executions (cron_job_id, created_at);
create index cron_executions_open on cron_executions (lease_until) where state in ('pending', 'running');

create table domains (${owned},
  hostname text not null, state text not null default 'pending', deployment_id uuid, sandbox_id uuid, redirect_policy text not null default 'none',
  verification_target text not null unique, verification_token text not null, verified_at timestamptz, checked_at timestamptz,
  last_error jsonb, removed_at timestamptz);
create unique index domains_hostname on domains (hostname) where state <> 'removed';
create index domains_by_deployment on domains (deployment_id) where state <> 'removed';
`,
};
