import type { Migration } from "@platform/postgres";

export const installCacheMigration: Migration = {
  name: "0020-install-cache",
  sql: `
create table install_cache (
  tenant_id uuid not null references tenants, key text not null, digest text not null, size_bytes bigint not null,
  created_at timestamptz not null default now(), last_used_at timestamptz not null default now(), primary key (tenant_id, key));
`,
};
