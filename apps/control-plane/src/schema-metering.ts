import type { Migration } from "@platform/postgres";

const owners =
  "tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id";

/** SQL files that a promote of a release runs on the deployment's database. */
export const releaseMigrations: Migration = {
  name: "release-migrations-1",
  sql: `
create table release_migrations (
  release_id uuid not null references releases on delete cascade, ordinal integer not null, name text not null, sha256 text not null,
  sql text not null, primary key (release_id, ordinal));
alter table promotions add column migrated_at timestamptz;
`,
};

/**
 * When databases and instances ran. Written by triggers, as `sandbox_runs` is, so that every way in which one starts
 * or stops is counted. `metered` has the runs of all three, with their sizes.
 */
export const meteringMigration: Migration = {
  name: "metering-1-runs",
  sql: `
create table metered_runs (
  id bigserial primary key, resource_type text not null, resource_id uuid not null, part uuid not null, tenant_id uuid not null,
  workspace_id uuid, project_id uuid, external_workspace_id text, external_user_id text, external_project_id text,
  cpu_count double precision not null, memory_mb integer not null, started_at timestamptz not null default now(), ended_at timestamptz);
create unique index metered_runs_open on metered_runs (part) where ended_at is null;
create index metered_runs_by_tenant on metered_runs (tenant_id, started_at);
create index metered_runs_by_resource on metered_runs (resource_id, started_at);

create function record_database_run() returns trigger language plpgsql as $$
begin
  if new.state in ('running', 'error', 'restarting') then
    insert into metered_runs (resource_type, resource_id, part, cpu_count, memory_mb, ${owners})
    values ('database', new.id, new.id, new.cpu_count, new.memory_mb,
      new.tenant_id, new.workspace_id, new.project_id, new.external_workspace_id, new.external_user_id, new.external_project_id)
    on conflict (part) where ended_at is null do nothing;
  else
    update metered_runs set ended_at = greatest(now(), started_at) where part = new.id and ended_at is null;
  end if;
  return null;
end $$;
create trigger record_database_run after insert or update of state on databases for each row execute function record_database_run();

create function record_instance_run() returns trigger language plpgsql as $$
begin
  if tg_op = 'DELETE' then
    update metered_runs set ended_at = greatest(now(), started_at) where part = old.id and ended_at is null;
  elsif new.state in ('healthy', 'unhealthy') then
    insert into metered_runs (resource_type, resource_id, part, cpu_count, memory_mb, ${owners})
    select 'deployment', d.id, new.id, 0, 0,
      d.tenant_id, d.workspace_id, d.project_id, d.external_workspace_id, d.external_user_id, d.external_project_id
    from deployments d where d.id = new.deployment_id
    on conflict (part) where ended_at is null do nothing;
  else
    update metered_runs set ended_at = greatest(now(), started_at) where part = new.id and ended_at is null;
  end if;
  return null;
end $$;
create trigger record_instance_run after insert or update of state or delete on instances for each row execute function record_instance_run();

-- What runs at this moment is counted from now on.
update databases set state = state where state in ('running', 'error');
update instances set state = state where state in ('healthy', 'unhealthy');

create view metered as
  select 'sandbox'::text as resource_type, r.sandbox_id as resource_id, r.tenant_id, r.workspace_id, r.project_id, r.external_workspace_id,
    r.external_user_id, r.external_project_id, s.cpu_count::float8 as cpu_count, s.memory_mb, r.started_at, r.ended_at
  from sandbox_runs r join sandboxes s on s.id = r.sandbox_id
  union all
  select resource_type, resource_id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id,
    cpu_count, memory_mb, started_at, ended_at from metered_runs;
`,
};
