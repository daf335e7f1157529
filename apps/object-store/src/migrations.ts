import type { Migration } from "@platform/postgres";

/**
 * Keys are text in byte order, as listings promise. An object is a list of segments, one for each
 * part it was uploaded in, so that completing an upload moves no bytes.
 */
export const migrations: readonly Migration[] = [
  {
    name: "object-store-0001-index",
    sql: `
      create schema if not exists object_store;
      create table object_store.buckets (
        id text primary key,
        name text not null unique,
        quota_bytes bigint,
        is_public boolean not null,
        -- Objects and the parts of uploads in progress.
        used_bytes bigint not null default 0 check (used_bytes >= 0),
        object_count bigint not null default 0 check (object_count >= 0),
        created_at timestamptz not null default now()
      );
      create table object_store.credentials (
        access_key_id text primary key,
        bucket_id text not null references object_store.buckets on delete cascade,
        access text not null check (access in ('read', 'write')),
        encrypted_secret bytea not null,
        -- Signs URLs that the control plane hands out; never shown.
        is_internal boolean not null default false,
        created_at timestamptz not null default now()
      );
      create index on object_store.credentials (bucket_id);
      create table object_store.objects (
        id uuid primary key,
        bucket_id text not null references object_store.buckets,
        key text collate "C" not null,
        size_bytes bigint not null,
        etag text not null,
        headers jsonb not null,
        metadata jsonb not null,
        checksum jsonb,
        modified_at timestamptz not null default now(),
        unique (bucket_id, key)
      );
      create table object_store.segments (
        object_id uuid not null references object_store.objects on delete cascade,
        position int not null,
        blob text not null unique,
        size_bytes bigint not null,
        primary key (object_id, position)
      );
      create table object_store.uploads (
        id text primary key,
        bucket_id text not null references object_store.buckets,
        key text collate "C" not null,
        headers jsonb not null,
        metadata jsonb not null,
        checksum_algorithm text,
        created_at timestamptz not null default now()
      );
      create index on object_store.uploads (bucket_id, key, id);
      create table object_store.parts (
        upload_id text not null references object_store.uploads on delete cascade,
        number int not null,
        blob text not null unique,
        size_bytes bigint not null,
        md5 text not null,
        checksum jsonb,
        modified_at timestamptz not null default now(),
        primary key (upload_id, number)
      );`,
  },
  {
    name: "object-store-0002-versions",
    sql: `
      alter table object_store.buckets
        -- '': never kept versions.
        add column versioning text not null default '' check (versioning in ('', 'Enabled', 'Suspended')),
        -- Documents of the protocol, parsed: cors, lifecycle, tagging.
        add column documents jsonb not null default '{}';
      alter table object_store.objects
        -- 'null': written while the bucket kept no versions.
        add column version_id text not null default 'null',
        add column is_latest boolean not null default true,
        add column is_delete_marker boolean not null default false,
        add column tags jsonb not null default '{}',
        -- Order of writing; dates alone may be equal.
        add column sequence bigint generated always as identity,
        drop constraint objects_bucket_id_key_key;
      create unique index objects_latest on object_store.objects (bucket_id, key) where is_latest;
      create unique index objects_version on object_store.objects (bucket_id, key, version_id);
      create index objects_history on object_store.objects (bucket_id, key, sequence desc);
      alter table object_store.uploads add column tags jsonb not null default '{}';
      alter table object_store.credentials
        -- Only keys that begin so.
        add column prefix text not null default '',
        -- null: what the access stands for.
        add column actions text[];`,
  },
];
