import type { Migration } from "@platform/postgres";

/** Promotions as rows, instances in numbers, what is kept of releases, and what an instance said before it went. */
export const rolloutsMigration: Migration = {
  name: "0030-rollouts",
  sql: `
create table promotions (
  id uuid primary key, deployment_id uuid not null references deployments on delete cascade, release_id uuid not null, from_release_id uuid,
  kind text not null, state text not null, options jsonb not null default '{}', run_at timestamptz not null default now(), artifact_sha256 text,
  requested_by jsonb not null default '{}', approval jsonb, schema_newer jsonb not null default '[]', canary jsonb, failure jsonb, proved text,
  seq bigserial, created_at timestamptz not null default now(), started_at timestamptz, finished_at timestamptz);
create index promotions_by_deployment on promotions (deployment_id, seq);
create unique index promotions_running on promotions (deployment_id) where state = 'running';

alter table deployments add column traffic text not null default 'on', add column traffic_message text, add column traffic_until timestamptz,
  add column last_used_at timestamptz not null default now(), add column asleep_at timestamptz,
  add column trial_until timestamptz, add column previous_release_id uuid;
alter table instances add column slot integer not null default 0, add column started_at timestamptz, add column healthy_since timestamptz,
  add column unhealthy_since timestamptz, add column exits jsonb not null default '[]', add column last_exit_at timestamptz,
  add column oom_kills bigint not null default 0, add column oom_pending bigint not null default 0, add column verdict text,
  add column stopping_at timestamptz, add column destroyed_at timestamptz, add column sampled_at timestamptz, add column cpu_micros bigint;
create index instances_by_deployment on instances (deployment_id, created_at);
create table instance_logs (
  instance_id uuid not null references instances on delete cascade, seq integer not null, at timestamptz not null, stream text not null, line text not null,
  primary key (instance_id, seq));
create index instance_logs_by_time on instance_logs (at);
create table instance_samples (
  instance_id uuid not null references instances on delete cascade, deployment_id uuid not null, at timestamptz not null, cpu_percent double precision,
  memory_mb double precision, processes integer, primary key (instance_id, at));
create index instance_samples_by_deployment on instance_samples (deployment_id, at);
alter table releases add column pinned_at timestamptz, add column pin_reason text;
alter table versions add column verdict jsonb;
alter table request_logs add column failed_release_id uuid;
create index request_logs_by_failure on request_logs (failed_release_id, at) where failed_release_id is not null;
`,
};
