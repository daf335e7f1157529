import type { Migration } from "@platform/postgres";

/** `subject`: a workspace's id, a user's external id, or empty for the tenant. */
export const policiesMigration: Migration = {
  name: "0040-policies",
  sql: `
create table policies (
  tenant_id uuid not null references tenants, scope text not null check (scope in ('tenant', 'workspace', 'user')), subject text not null,
  policy jsonb not null, updated_at timestamptz not null default now(), primary key (tenant_id, scope, subject));
`,
};
