import type { Migration } from "@platform/postgres";
import { appBrandingsMigration, tenancyMigration } from "./schema-tenancy.ts";
import { installCacheMigration, uploadsMigration } from "./schema-releases.ts";
import { lifecycleMigrations } from "./schema-lifecycle.ts";
import { meteringMigration, releaseMigrations } from "./schema-metering.ts";
import { guardsMigration } from "./schema-guards.ts";
import { provenanceMigration } from "./schema-provenance.ts";
import { certificatesMigration, domainChecksMigration } from "./schema-certificates.ts";
import { cronPoliciesMigration } from "./schema-cron.ts";
import { e2bMigration } from "./schema-e2b.ts";
import { edgesMigration } from "./edges/schema.ts";
import { browserConsoleMigration } from "./previews/schema.ts";
import { snapshotsMigration } from "./snapshots/schema.ts";
import { importedImagesMigration, promotedBuildsMigration, templatesMigration } from "./templates/schema.ts";
import { rolloutsMigration } from "./deployments/schema.ts";
import { databasesMigrations } from "./databases/schema.ts";
import { policiesMigration } from "./policies/schema.ts";
import { resourcesMigration } from "./schema-resources.ts";

/** Columns that every resource of a tenant has. `generation` guards every change (compare-and-set). */
const resource = `
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

/** Columns of rows that a reconciler brings to their desired state. */
const reconciled = `
  next_look_at timestamptz not null default now(),
  lease_holder text,
  lease_until timestamptz,
  attempts integer not null default 0`;

export const migrations: readonly Migration[] = [
  {
    name: "0001-core",
    sql: `
create table tenants (
  id uuid primary key, slug text not null unique, name text not null, plan text not null default 'pro',
  domain text not null unique, preview_domain text, deployment_domain text,
  branding jsonb not null default '{}', policy jsonb not null default '{}', created_at timestamptz not null default now());
create table workspaces (
  id uuid primary key, tenant_id uuid not null references tenants, name text not null, slug text not null, description text,
  is_default boolean not null default false, created_at timestamptz not null default now(), unique (tenant_id, slug));
create table projects (
  id uuid primary key, tenant_id uuid not null references tenants, workspace_id uuid not null references workspaces on delete cascade,
  name text not null, slug text not null, description text, is_default boolean not null default false,
  created_at timestamptz not null default now(), unique (workspace_id, slug));
create table api_keys (
  id uuid primary key, tenant_id uuid not null references tenants, name text not null, hash bytea not null unique, key_prefix text not null,
  last_four text not null, key_type text not null default 'user', kind text not null default 'key', scopes text[], workspace_id uuid,
  external_user_id text, allowed_ips text[], rate_limit_rpm integer, expires_at timestamptz, revoked_at timestamptz, rotated_at timestamptz,
  last_used_at timestamptz, created_at timestamptz not null default now());
create table stream_tickets (hash bytea primary key, key_id uuid not null references api_keys on delete cascade, expires_at timestamptz not null);
create table idempotency (
  tenant_id uuid not null, key text not null, method text not null, path text not null, body_hash text not null, status integer, body text,
  headers jsonb, locked_until timestamptz not null, created_at timestamptz not null default now(), primary key (tenant_id, key, method, path));
create table events (
  seq bigserial primary key, id uuid not null unique, tenant_id uuid not null, type text not null, resource_type text not null,
  resource_id uuid, workspace_id uuid, data jsonb not null, at timestamptz not null default now());
create index events_by_tenant on events (tenant_id, seq);
create index events_by_resource on events (resource_id, seq);
create table audit_log (
  seq bigserial primary key, id uuid not null unique, tenant_id uuid not null, workspace_id uuid, action text not null, actor jsonb not null,
  resource_type text, resource_id text, status text not null, ip_address text, metadata jsonb not null default '{}', at timestamptz not null default now());
create index audit_by_tenant on audit_log (tenant_id, seq);
create table locks (name text primary key, holder text not null, until timestamptz not null);

create table sandboxes (${resource}, ${reconciled},
  name text, slug text not null, tags jsonb not null default '{}', state text not null default 'provisioning',
  desired text not null default 'running', template_id text not null, size text not null, cpu_count integer not null, memory_mb integer not null,
  disk_size_mb integer not null, persistent boolean not null, always_on boolean not null, timeout_sec integer not null,
  idle_timeout_sec integer not null, expires_at timestamptz, last_used_at timestamptz not null default now(),
  env_sealed bytea not null, services jsonb not null default '[]', readiness_probe jsonb, box_key text not null unique, content jsonb not null,
  isolation jsonb, readiness jsonb, ready boolean not null default false, ready_at timestamptz, boot_ms double precision, boot_path text,
  last_error jsonb, started_at timestamptz, destroyed_at timestamptz, run_seconds double precision not null default 0, running_since timestamptz,
  pending_database jsonb, setup jsonb, runtime_env_applied text);
create unique index sandboxes_slug on sandboxes (tenant_id, slug) where state <> 'destroyed';
create unique index sandboxes_name on sandboxes (tenant_id, name) where state <> 'destroyed' and name is not null;
create index sandboxes_due on sandboxes (next_look_at) where state <> 'destroyed';

create table commands (
  id uuid primary key, sandbox_id uuid not null references sandboxes on delete cascade, service_name text not null, kind text not null,
  command text not null, cwd text, created_at timestamptz not null default now());
create table previews (
  id uuid primary key, tenant_id uuid not null, sandbox_id uuid not null references sandboxes on delete cascade, port integer not null,
  is_primary boolean not null default false, name text, visibility text not null default 'public', hostname text not null unique,
  url text not null, probe jsonb, expires_at timestamptz, created_at timestamptz not null default now(), unique (sandbox_id, port, is_primary));
create table snapshots (
  id uuid primary key, tenant_id uuid not null, sandbox_id uuid not null, snapshot_key text not null unique, status text not null default 'pending',
  comment text, keep boolean not null default false, retention_seconds integer, size_bytes bigint, last_used_at timestamptz, expires_at timestamptz,
  sandbox_settings jsonb not null, error text, created_at timestamptz not null default now(), updated_at timestamptz not null default now());

create table databases (${resource}, ${reconciled},
  name text not null, engine text not null, engine_version text not null, exact_version text, desired text not null default 'running', state text not null default 'creating',
  cpu_count integer not null, memory_mb integer not null, storage_mb integer not null, region text, environment_id text, host_key text not null unique,
  host text, port integer, proof jsonb, last_error text, reason text, isolation jsonb, action text);
create index databases_due on databases (next_look_at) where state <> 'deleted';
create table database_links (
  database_id uuid not null references databases, resource_type text not null, resource_id uuid not null, env_name text not null,
  created_at timestamptz not null default now(), primary key (resource_type, resource_id, env_name));

create table deployments (${resource}, ${reconciled},
  name text not null, slug text not null, state text not null default 'pending', desired text not null default 'running',
  desired_release_id uuid, active_release_id uuid, active_version_id uuid, running_artifact_sha256 text, config_version integer not null default 1,
  source_type text not null default 'sandbox', repo_url text, repo_provider text, branch text, build_command text, run_command text,
  auto_deploy boolean not null default false, error_message text, last_failure jsonb, webhook_secret_sealed bytea, settings jsonb not null default '{}',
  route_version bigint, promotion jsonb, promoted_at timestamptz);
create unique index deployments_slug on deployments (tenant_id, slug) where state <> 'deleted';
create index deployments_due on deployments (next_look_at) where state <> 'deleted';
create table deployment_env (deployment_id uuid not null references deployments on delete cascade, name text not null, value_sealed bytea not null,
  preview text not null, created_at timestamptz not null default now(), updated_at timestamptz not null default now(), primary key (deployment_id, name));
create table versions (
  id uuid primary key, deployment_id uuid not null references deployments on delete cascade, version_number integer not null, kind text not null,
  state text not null default 'created', source_sandbox_id uuid, build_id uuid, artifact_sha256 text, artifact_manifest jsonb not null default '{}',
  runtime_command text, runtime_port integer, health_check_path text, metadata jsonb not null default '{}', promoted_at timestamptz,
  archived_at timestamptz, created_at timestamptz not null default now(), unique (deployment_id, version_number));
create table releases (
  id uuid primary key, deployment_id uuid not null references deployments on delete cascade, deployment_version_id uuid not null references versions on delete cascade,
  kind text not null, state text not null default 'pending', artifact_sha256 text, size_bytes bigint, artifact_manifest jsonb not null default '{}',
  start_command text, port integer, health_check_path text, source_sandbox_id uuid, build_id uuid, metadata jsonb not null default '{}',
  ready_at timestamptz, archived_at timestamptz, created_at timestamptz not null default now());
create table builds (
  id uuid primary key, tenant_id uuid not null, deployment_id uuid not null references deployments on delete cascade, version_id uuid not null, release_id uuid not null,
  state text not null default 'queued', step text not null default 'freeze', request jsonb not null, plan jsonb, source_digest text, bundle_digest text,
  failure jsonb, actor jsonb not null, started_at timestamptz, finished_at timestamptz, created_at timestamptz not null default now(),
  generation bigint not null default 1, ${reconciled});
create index builds_due on builds (next_look_at) where state in ('queued', 'building');
create table build_logs (build_id uuid not null references builds on delete cascade, seq bigserial, stream text not null, line text not null, at timestamptz not null default now(), primary key (build_id, seq));
create table instances (
  id uuid primary key, deployment_id uuid not null references deployments on delete cascade, release_id uuid not null, box_key text not null unique,
  config_version integer not null, desired_state text not null default 'running', state text not null default 'provisioning', port integer,
  failure jsonb, restarts integer not null default 0, retire_at timestamptz, last_health_check_at timestamptz, created_at timestamptz not null default now());

create table runtime_env (
  id uuid primary key, tenant_id uuid not null references tenants, scope text not null, target text not null, workspace_id uuid, project_id uuid,
  name text not null, value_sealed bytea not null, preview text not null, enabled boolean not null default true, metadata jsonb not null default '{}',
  created_at timestamptz not null default now(), updated_at timestamptz not null default now());

create sequence route_versions;
create table routes (
  hostname text primary key, version bigint not null, tenant_id uuid not null, kind text not null, target jsonb, deployment_id uuid,
  release_id uuid, sandbox_id uuid);
create index routes_by_version on routes (version);
create table edges (id text primary key, applied bigint not null default 0, last_seen_at timestamptz not null default now());
create table request_logs (
  seq bigserial primary key, at timestamptz not null, request_id text not null, deployment_id uuid, release_id uuid, sandbox_id uuid,
  hostname text not null, method text not null, path text not null, status integer not null, duration_ms double precision not null);
create index request_logs_by_deployment on request_logs (deployment_id, seq);
`,
  },
  resourcesMigration,
  { name: "0004-process-names", sql: "alter table commands add column label text" },
  tenancyMigration,
  {
    name: "0005-idempotency-holder",
    sql: "alter table idempotency add column holder text not null default ''",
  },
  {
    name: "0007-private-previews",
    sql: "alter table previews add column access_sealed bytea, add column access_sha256 text",
  },
  {
    name: "0006-sealed-answers",
    sql: "alter table idempotency drop column body, add column body_sealed bytea",
  },
  e2bMigration,
  provenanceMigration,
  templatesMigration,
  ...lifecycleMigrations,
  guardsMigration,
  installCacheMigration,
  uploadsMigration,
  certificatesMigration,
  domainChecksMigration,
  appBrandingsMigration,
  snapshotsMigration,
  edgesMigration,
  browserConsoleMigration,
  rolloutsMigration,
  cronPoliciesMigration,
  importedImagesMigration,
  promotedBuildsMigration,
  ...databasesMigrations,
  meteringMigration,
  releaseMigrations,
  policiesMigration,
];
