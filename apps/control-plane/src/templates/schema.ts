import type { Migration } from "@platform/postgres";

export const templatesMigration: Migration = {
  name: "0020-templates",
  sql: `
create table sandbox_templates (
  id uuid primary key, tenant_id uuid not null references tenants, slug text not null, name text not null, description text,
  metadata jsonb not null default '{}', build_spec_sealed bytea not null, active_build_id uuid, previous_build_id uuid,
  created_at timestamptz not null default now(), updated_at timestamptz not null default now(), deleted_at timestamptz);
create unique index sandbox_templates_slug on sandbox_templates (tenant_id, slug) where deleted_at is null;
create table template_builds (
  id uuid primary key, tenant_id uuid not null references tenants, template_id uuid not null references sandbox_templates,
  state text not null default 'queued', build_spec_sealed bytea not null, base text, digest text, size_bytes bigint,
  certificate jsonb, failure jsonb, cancel_requested boolean not null default false, log_seq integer not null default 0,
  created_at timestamptz not null default now(), started_at timestamptz, finished_at timestamptz,
  generation bigint not null default 1, next_look_at timestamptz not null default now(), lease_holder text,
  lease_until timestamptz, attempts integer not null default 0);
create index template_builds_due on template_builds (next_look_at) where state not in ('ready', 'failed', 'cancelled');
create index template_builds_by_template on template_builds (template_id, created_at);
create table template_build_logs (
  build_id uuid not null references template_builds on delete cascade, seq integer not null, stream text not null,
  line text not null, at timestamptz not null, primary key (build_id, seq));
alter table sandboxes add column image jsonb;
`,
};

/** Images uploaded for builds, and what an imported image says of itself. */
export const importedImagesMigration: Migration = {
  name: "0031-imported-images",
  sql: `
create table template_image_uploads (
  id uuid primary key, tenant_id uuid not null references tenants, size_bytes bigint not null, created_at timestamptz not null default now());
alter table template_builds add column config_sealed bytea;
`,
};

/** Clients of another protocol know no promotion: what they build is used once it is ready. */
export const promotedBuildsMigration: Migration = {
  name: "0032-promoted-builds",
  sql: "alter table template_builds add column promote_when_ready boolean not null default false",
};
