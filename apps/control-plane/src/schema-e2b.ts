import type { Migration } from "@platform/postgres";

/** What clients of the sandbox protocol set and no other client knows. A sandbox without a row has the defaults. */
export const e2bMigration: Migration = {
  name: "0010-e2b",
  sql: `
create table e2b_sandboxes (
  sandbox_id uuid primary key references sandboxes on delete cascade, template_id text not null, auto_resume boolean not null default false,
  is_secure boolean not null default true, public_traffic boolean not null default false, allow_internet boolean,
  network jsonb not null default '{}', host_mask text, created_at timestamptz not null default now());
create table e2b_snapshot_names (
  snapshot_id uuid primary key references snapshots on delete cascade, tenant_id uuid not null references tenants, name text not null,
  created_at timestamptz not null default now());
create index e2b_snapshot_names_by_name on e2b_snapshot_names (tenant_id, name, created_at);
`,
};
