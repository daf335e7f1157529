import type { Migration } from "@platform/postgres";

/**
 * Keys, brands, webhooks, measured run time and egress.
 *
 * `events.xid` orders events by the transaction that wrote them: sequence numbers become visible out of
 * order, so a reader that only remembers the highest one could skip an event that commits late.
 *
 * `sandbox_runs` is written by a trigger, so that every way in which a sandbox starts or stops running is
 * measured, also those that come later.
 */
export const tenancyMigration: Migration = {
  name: "0002-tenancy",
  sql: `
alter table api_keys add column created_by uuid;
create index api_keys_by_tenant on api_keys (tenant_id, created_at);
alter table workspaces add column metadata jsonb not null default '{}', add column updated_at timestamptz not null default now();

create table branding_assets (
  id uuid primary key, tenant_id uuid not null references tenants, kind text not null, content_type text not null, bytes bytea not null,
  created_at timestamptz not null default now());
create index branding_assets_by_tenant on branding_assets (tenant_id, kind, created_at);
create table tenant_domains (
  tenant_id uuid not null references tenants, kind text not null check (kind in ('preview', 'deployment')), domain text not null,
  token text not null, verified_at timestamptz, checked_at timestamptz, last_error text, created_at timestamptz not null default now(),
  primary key (tenant_id, kind));
create unique index tenant_domains_verified on tenant_domains (kind, domain) where verified_at is not null;

alter table events add column xid xid8 not null default pg_current_xact_id();
create index events_by_xid on events (xid, seq);
create table webhooks (
  id uuid primary key, tenant_id uuid not null references tenants, workspace_id uuid references workspaces on delete cascade,
  url text not null, events text[] not null default '{}', name text, description text, secret_sealed bytea not null, secret_preview text not null,
  active boolean not null default true, headers_sealed bytea, header_names text[] not null default '{}', retry_count integer not null default 5,
  metadata jsonb not null default '{}', created_at timestamptz not null default now(), updated_at timestamptz not null default now());
create index webhooks_by_tenant on webhooks (tenant_id);
create table webhook_deliveries (
  id uuid primary key default gen_random_uuid(), webhook_id uuid not null references webhooks on delete cascade, tenant_id uuid not null,
  event_id uuid not null, event_type text not null, data jsonb not null, occurred_at timestamptz not null,
  state text not null default 'pending', response_status integer, response_body text, error text, attempts integer not null default 0,
  next_attempt_at timestamptz not null default now(), lease_holder uuid, lease_until timestamptz, delivered_at timestamptz,
  replay_of uuid, replay_id text, created_at timestamptz not null default clock_timestamp(), updated_at timestamptz not null default now());
create unique index webhook_deliveries_once on webhook_deliveries (webhook_id, event_id) where replay_of is null;
create unique index webhook_deliveries_replay on webhook_deliveries (webhook_id, replay_id) where replay_id is not null;
create index webhook_deliveries_due on webhook_deliveries (next_attempt_at) where state in ('pending', 'retrying');
create index webhook_deliveries_by_webhook on webhook_deliveries (webhook_id, created_at);
create table webhook_cursor (one boolean primary key default true check (one), xid xid8 not null, seq bigint not null);
insert into webhook_cursor (xid, seq) values (pg_current_xact_id(), 9223372036854775807);

create table sandbox_runs (
  id bigserial primary key, sandbox_id uuid not null, tenant_id uuid not null, workspace_id uuid, project_id uuid, external_workspace_id text,
  external_user_id text, external_project_id text, started_at timestamptz not null, ended_at timestamptz);
create unique index sandbox_runs_open on sandbox_runs (sandbox_id) where ended_at is null;
create index sandbox_runs_by_tenant on sandbox_runs (tenant_id, started_at);
create function record_sandbox_run() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and old.running_since is not null and new.running_since is distinct from old.running_since then
    update sandbox_runs set ended_at = greatest(now(), started_at) where sandbox_id = new.id and ended_at is null;
  end if;
  if new.running_since is not null and (tg_op = 'INSERT' or new.running_since is distinct from old.running_since) then
    insert into sandbox_runs (sandbox_id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id, started_at)
    values (new.id, new.tenant_id, new.workspace_id, new.project_id, new.external_workspace_id, new.external_user_id, new.external_project_id, new.running_since);
  end if;
  return null;
end $$;
create trigger record_sandbox_run after insert or update of running_since on sandboxes for each row execute function record_sandbox_run();
insert into sandbox_runs (sandbox_id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id, started_at, ended_at)
select id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id,
  coalesce(started_at, created_at), coalesce(started_at, created_at) + run_seconds * interval '1 second' from sandboxes where run_seconds > 0
union all
select id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id, running_since, null
from sandboxes where running_since is not null;

create unique index runtime_env_name on runtime_env
  (tenant_id, scope, coalesce(workspace_id, tenant_id), coalesce(project_id, tenant_id), target, name);

create table egress_policies (
  id uuid primary key, tenant_id uuid not null references tenants, workspace_id uuid, name text not null, mode text not null,
  default_effect text not null, resource_type text, resource_id uuid, description text, created_at timestamptz not null default now(),
  updated_at timestamptz not null default now());
create unique index egress_policies_resource on egress_policies
  (tenant_id, coalesce(resource_id, workspace_id, tenant_id));
create table egress_rules (
  id uuid primary key, tenant_id uuid not null references tenants, workspace_id uuid, policy_id uuid references egress_policies on delete cascade,
  resource_type text, resource_id uuid, host text not null, effect text not null, note text, created_at timestamptz not null default now());
create index egress_rules_by_tenant on egress_rules (tenant_id);
create table egress_pending (sandbox_id uuid primary key references sandboxes on delete cascade, since timestamptz not null default now());
`,
};

/** Looks of single deployments and sandboxes, where they differ from their tenant's. */
export const appBrandingsMigration: Migration = {
  name: "0030-app-brandings",
  sql: `create table app_brandings (app_id uuid primary key, tenant_id uuid not null references tenants, branding jsonb not null);
create index app_brandings_by_tenant on app_brandings (tenant_id);`,
};
