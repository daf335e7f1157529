import type { Migration } from "@platform/postgres";

export const databasesMigrations: readonly Migration[] = [
  {
    name: "databases-1-rotation",
    sql: `
alter table databases add column product text, add column rotation jsonb;
create index database_links_by_database on database_links (database_id);
`,
  },
  {
    name: "databases-2-backups",
    sql: `
alter table databases add column source jsonb, add column backup_policy jsonb, add column backup_state jsonb;
create table database_backups (
  id uuid primary key, tenant_id uuid not null, database_id uuid not null references databases, kind text not null,
  state text not null default 'pending', object_key text not null, key_sealed bytea not null, size_bytes bigint, parts integer, reason text, error text,
  failures integer not null default 0, drill_ms double precision, completed_at timestamptz, restored_ok_at timestamptz, expires_at timestamptz,
  generation bigint not null default 1, next_look_at timestamptz not null default now(), lease_holder text, lease_until timestamptz,
  attempts integer not null default 0, created_at timestamptz not null default now());
create index database_backups_by_database on database_backups (database_id, created_at);
create index database_backups_due on database_backups (next_look_at) where state in ('pending', 'running', 'completed');
`,
  },
  { name: "databases-3-pooling", sql: "alter table databases add column pooling jsonb" },
  {
    name: "databases-4-point-in-time",
    sql: `
alter table database_backups add column wal_from text;
create table database_archives (
  id uuid primary key references databases, tenant_id uuid not null, key_sealed bytea not null, wanted boolean not null default true,
  window_days integer not null, through timestamptz, status text not null default 'starting', reason text, error text, failed_at timestamptz,
  generation bigint not null default 1, next_look_at timestamptz not null default now(), lease_holder text, lease_until timestamptz,
  attempts integer not null default 0, created_at timestamptz not null default now());
create index database_archives_due on database_archives (next_look_at);
create table database_log_segments (
  archive_id uuid not null references database_archives on delete cascade, name text not null, through timestamptz not null,
  size_bytes bigint not null, primary key (archive_id, name));
`,
  },
  {
    name: "databases-5-upgrades",
    sql: "alter table databases add column upgrade jsonb; alter table database_backups add column engine_version text",
  },
  {
    name: "databases-6-branches",
    sql: `
alter table databases add column owner_sandbox_id uuid;
create index databases_by_owner on databases (owner_sandbox_id) where owner_sandbox_id is not null;
`,
  },
  {
    name: "databases-7-discarded-backups",
    sql: `
drop index database_backups_due;
create index database_backups_due on database_backups (next_look_at)
  where state in ('pending', 'running', 'completed', 'damaged') or (state = 'failed' and parts is null)`,
  },
];
