import type { Migration } from "@platform/postgres";

/** What the life cycle of sandboxes needs beyond their row. One entry a feature, in the order they came. */
export const lifecycleMigrations: readonly Migration[] = [
  {
    // Sandboxes that are made together: batches, and forks of one copy.
    name: "lifecycle-01-groups",
    sql: `
alter table sandboxes add column group_id uuid, add column group_index integer, add column group_limit integer,
  add column restored_from uuid;
create index sandboxes_by_group on sandboxes (group_id, group_index) where group_id is not null;`,
  },
  {
    name: "lifecycle-02-batches",
    sql: `
create table sandbox_batches (
  id uuid primary key, tenant_id uuid not null references tenants, workspace_id uuid, external_user_id text,
  requested_count integer not null, concurrency_limit integer not null, cancelled_at timestamptz, created_at timestamptz not null default now());
create table bulk_jobs (
  id uuid primary key, tenant_id uuid not null references tenants, workspace_id uuid, external_user_id text, action text not null,
  created_at timestamptz not null default now());
create table bulk_items (
  job_id uuid not null references bulk_jobs on delete cascade, target text not null, sandbox_id uuid, generation bigint,
  state text not null default 'running', error jsonb, primary key (job_id, target));`,
  },
  {
    name: "lifecycle-03-exports-terminals",
    sql: `
create table exports (
  id uuid primary key, sandbox_id uuid not null references sandboxes on delete cascade, label text, filename text not null,
  paths jsonb not null, created_at timestamptz not null default now());
create index exports_by_sandbox on exports (sandbox_id, created_at);`,
  },
  {
    // A share without a preview opens all previews of the sandbox.
    name: "lifecycle-04-preview-shares",
    sql: `
create table preview_shares (
  id uuid primary key, tenant_id uuid not null, sandbox_id uuid not null references sandboxes on delete cascade,
  preview_id uuid references previews on delete cascade, kind text not null, scope text not null, token_sha256 text not null,
  token_prefix text not null, expires_at timestamptz not null, created_at timestamptz not null default now());
create index preview_shares_by_sandbox on preview_shares (sandbox_id);`,
  },
  {
    // One point a minute and sandbox, of the kernel's counters; counters of former boxes are kept as sums.
    name: "lifecycle-05-metrics",
    sql: `
create table sandbox_samples (
  sandbox_id uuid not null references sandboxes on delete cascade, at timestamptz not null, cpu_percent double precision,
  memory_mb double precision, disk_mb double precision, processes integer, primary key (sandbox_id, at));
create index sandbox_samples_by_time on sandbox_samples (at);
create table sandbox_counters (
  sandbox_id uuid primary key references sandboxes on delete cascade, box_key text not null, at timestamptz not null,
  cpu_micros bigint, oom_kills bigint, sent_bytes bigint, received_bytes bigint,
  cpu_micros_before bigint not null default 0, sent_before bigint not null default 0, received_before bigint not null default 0,
  ports jsonb, ports_at timestamptz not null);`,
  },
];
