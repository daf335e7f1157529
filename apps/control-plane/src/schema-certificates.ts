import type { Migration } from "@platform/postgres";

/**
 * Certificates of host names: one row for each name that an authority is asked for, one for each that a
 * tenant brought. `certificate_feed` counts what edges must learn; its single row also makes writers take
 * turns, so that an edge which has seen 7 never misses 6.
 */
export const certificatesMigration: Migration = {
  name: "certificates-01",
  sql: `
create table certificate_feed (one boolean primary key default true check (one), version bigint not null);
insert into certificate_feed (version) values (0);
alter table edges add column certificates_applied bigint not null default 0, add column certificates_seen_at timestamptz;

create table certificates (
  id uuid primary key, tenant_id uuid not null references tenants, name text not null, names text[] not null,
  source text not null check (source in ('acme', 'upload')), chain text, key_sealed bytea, not_before timestamptz, not_after timestamptz,
  fingerprint text, issuer text, version bigint, failures integer not null default 0, last_error jsonb,
  next_try_at timestamptz not null default now(), order_url text, order_key_sealed bytea, issued_at timestamptz, removed_at timestamptz,
  generation bigint not null default 1, created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
  next_look_at timestamptz not null default now(), lease_holder text, lease_until timestamptz, attempts integer not null default 0);
create unique index certificates_name on certificates (name) where source = 'acme' and removed_at is null;
create index certificates_by_tenant on certificates (tenant_id, created_at);
create index certificates_by_version on certificates (version) where version is not null;
create index certificates_due on certificates (next_look_at) where source = 'acme' and removed_at is null;

create table acme_accounts (
  directory text primary key, key_sealed bytea not null, url text, created_at timestamptz not null default now());
create table acme_orders (
  id bigserial primary key, certificate_id uuid not null, name text not null, registered_domain text not null, directory text not null,
  is_renewal boolean not null, challenge text not null, placed_at timestamptz not null default now(), finished_at timestamptz,
  outcome text, failed_validation boolean not null default false);
create index acme_orders_recent on acme_orders (placed_at);
create index acme_orders_by_name on acme_orders (name, placed_at);
create table acme_challenges (
  id bigserial primary key, certificate_id uuid not null, challenge jsonb not null, version bigint not null,
  created_at timestamptz not null default now());
create table acme_delegations (
  name text primary key, tenant_id uuid not null references tenants, label text not null unique, seen_at timestamptz, checked_at timestamptz,
  last_error jsonb, created_at timestamptz not null default now());
`,
};

/** What DNS said about a custom domain when we looked last, and when to look again. */
export const domainChecksMigration: Migration = {
  name: "domains-01-checks",
  sql: `
alter table domains add column records jsonb, add column next_check_at timestamptz not null default now(), add column away_since timestamptz;
create index domains_due on domains (next_check_at) where state <> 'removed';
`,
};
