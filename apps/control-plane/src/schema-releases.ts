import type { Migration } from "@platform/postgres";

/** Chunks are known per tenant: whether another has one would tell of its files. */
export const uploadsMigration: Migration = {
  name: "0021-uploads",
  sql: `
create table uploads (
  id uuid primary key, tenant_id uuid not null references tenants, deployment_id uuid not null references deployments on delete cascade,
  state text not null default 'open', size_bytes bigint not null, sha256 text not null, chunks jsonb not null,
  expires_at timestamptz not null, created_at timestamptz not null default now());
create table upload_chunks (
  tenant_id uuid not null references tenants, sha256 text not null, size_bytes integer not null,
  last_used_at timestamptz not null default now(), primary key (tenant_id, sha256));
create index upload_chunks_by_use on upload_chunks (last_used_at);
`,
};

export const installCacheMigration: Migration = {
  name: "0020-install-cache",
  sql: `
create table install_cache (
  tenant_id uuid not null references tenants, key text not null, digest text not null, size_bytes bigint not null,
  created_at timestamptz not null default now(), last_used_at timestamptz not null default now(), primary key (tenant_id, key));
`,
};
