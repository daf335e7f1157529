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
];
