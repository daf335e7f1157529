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
];
