import { randomUUID } from "node:crypto";
import { type Queryable, query, queryOne, transaction } from "@platform/postgres";
import type { Pool } from "pg";
import type { Segment } from "./blobs.ts";
import type { Checksum } from "./checksums.ts";
import { S3Error } from "./s3-error.ts";

export interface Bucket {
  id: string;
  name: string;
  /** `null`: unlimited. */
  quotaBytes: number | null;
  isPublic: boolean;
  usedBytes: number;
  objectCount: number;
  createdAt: Date;
}

/** Headers that are stored with an object and given back, names in lower case. */
export type StoredHeaders = Record<string, string>;

export interface NewObject {
  key: string;
  sizeBytes: number;
  etag: string;
  headers: StoredHeaders;
  metadata: StoredHeaders;
  checksum: Checksum | null;
  segments: readonly Segment[];
}

export interface StoredObject extends NewObject {
  modifiedAt: Date;
}

export interface ListedObject {
  key: string;
  sizeBytes: number;
  etag: string;
  modifiedAt: Date;
  contentType: string;
}

/** What must hold for a write, checked in the transaction that writes. */
export interface WriteCondition {
  /** `*`: nothing may be there. */
  ifNoneMatch?: string;
  /** Entity tag, or `*` for any. */
  ifMatch?: string;
}

const bucketColumns = `id, name, quota_bytes::float8 as "quotaBytes", is_public as "isPublic",
  used_bytes::float8 as "usedBytes", object_count::float8 as "objectCount", created_at as "createdAt"`;

export const findBucket = (database: Queryable, id: string) =>
  queryOne<Bucket>(database, `select ${bucketColumns} from object_store.buckets where id = $1`, [id]);

export const findBucketByName = (database: Queryable, name: string) =>
  queryOne<Bucket>(database, `select ${bucketColumns} from object_store.buckets where name = $1`, [name]);

/** @returns `null` if another bucket has the name */
export async function putBucket(
  database: Queryable,
  bucket: Pick<Bucket, "id" | "name" | "quotaBytes" | "isPublic">,
): Promise<Bucket | null> {
  try {
    return await queryOne<Bucket>(
      database,
      `insert into object_store.buckets (id, name, quota_bytes, is_public) values ($1, $2, $3, $4)
       on conflict (id) do update set name = excluded.name, quota_bytes = excluded.quota_bytes,
         is_public = excluded.is_public
       returning ${bucketColumns}`,
      [bucket.id, bucket.name, bucket.quotaBytes, bucket.isPublic],
    );
  } catch (error) {
    if ((error as { code?: string }).code === "23505") return null;
    throw error;
  }
}

/** @returns blobs that nothing names any more */
export const deleteBucket = (pool: Pool, id: string) =>
  transaction(pool, async (client) => {
    await client.query("select from object_store.buckets where id = $1 for update", [id]);
    const blobs = await query<{ blob: string }>(
      client,
      `select blob from object_store.segments s join object_store.objects o on o.id = s.object_id
         where o.bucket_id = $1
       union all
       select blob from object_store.parts p join object_store.uploads u on u.id = p.upload_id
         where u.bucket_id = $1`,
      [id],
    );
    await client.query("delete from object_store.objects where bucket_id = $1", [id]);
    await client.query("delete from object_store.uploads where bucket_id = $1", [id]);
    await client.query("delete from object_store.buckets where id = $1", [id]);
    return blobs.map(({ blob }) => blob);
  });

/**
 * Adds to what a bucket uses. Its row stays locked until the transaction ends, so that writers of
 * one bucket take turns and the quota holds exactly.
 */
export async function charge(
  client: Queryable,
  bucketId: string,
  bytes: number,
  objects: number,
): Promise<void> {
  const bucket = await queryOne<{ isOver: boolean }>(
    client,
    `update object_store.buckets
     set used_bytes = used_bytes + $2, object_count = object_count + $3 where id = $1
     returning coalesce(used_bytes > quota_bytes, false) as "isOver"`,
    [bucketId, bytes, objects],
  );
  if (!bucket) throw new S3Error("NoSuchBucket");
  if (bucket.isOver && bytes > 0) throw new S3Error("QuotaExceeded");
}

/** Locks the bucket, so that what follows sees every write that came before. */
export async function lockBucket(client: Queryable, bucketId: string): Promise<void> {
  const row = await queryOne(client, "select id from object_store.buckets where id = $1 for update", [
    bucketId,
  ]);
  if (!row) throw new S3Error("NoSuchBucket");
}

/** Removes the object's rows. @returns `null` if there is no such object */
async function removeRows(client: Queryable, bucketId: string, key: string) {
  const object = await queryOne<{ id: string; sizeBytes: number; etag: string }>(
    client,
    `select id, size_bytes::float8 as "sizeBytes", etag from object_store.objects
     where bucket_id = $1 and key = $2`,
    [bucketId, key],
  );
  if (!object) return null;
  const blobs = await query<{ blob: string }>(
    client,
    "delete from object_store.segments where object_id = $1 returning blob",
    [object.id],
  );
  await client.query("delete from object_store.objects where id = $1", [object.id]);
  return { ...object, blobs: blobs.map(({ blob }) => blob) };
}

/**
 * Makes an object visible, in place of what its key named, within a transaction.
 *
 * @param alreadyCharged bytes of it that the bucket was charged for before
 * @returns blobs that nothing names once the transaction is committed
 */
export async function writeRows(
  client: Queryable,
  bucketId: string,
  object: NewObject,
  condition: WriteCondition,
  alreadyCharged: number,
): Promise<string[]> {
  await lockBucket(client, bucketId);
  const previous = await removeRows(client, bucketId, object.key);
  if (condition.ifNoneMatch !== undefined && previous) throw new S3Error("PreconditionFailed");
  if (condition.ifMatch !== undefined) {
    if (!previous) throw new S3Error("NoSuchKey");
    if (condition.ifMatch !== "*" && condition.ifMatch !== previous.etag)
      throw new S3Error("PreconditionFailed");
  }
  const added = object.sizeBytes - alreadyCharged - (previous?.sizeBytes ?? 0);
  await charge(client, bucketId, added, previous ? 0 : 1);
  const id = randomUUID();
  await client.query(
    `insert into object_store.objects (id, bucket_id, key, size_bytes, etag, headers, metadata, checksum)
     values ($1, $2, $3, $4, $5, $6, $7, $8)`,
    [
      id,
      bucketId,
      object.key,
      object.sizeBytes,
      object.etag,
      object.headers,
      object.metadata,
      object.checksum,
    ],
  );
  await client.query(
    `insert into object_store.segments (object_id, position, blob, size_bytes)
     select $1, at, blob, size from unnest($2::text[], $3::bigint[]) with ordinality as t(blob, size, at)`,
    [id, object.segments.map(({ blob }) => blob), object.segments.map(({ sizeBytes }) => sizeBytes)],
  );
  return previous?.blobs ?? [];
}

export const commitObject = (
  pool: Pool,
  bucketId: string,
  object: NewObject,
  condition: WriteCondition = {},
) => transaction(pool, (client) => writeRows(client, bucketId, object, condition, 0));

/** @returns blobs that nothing names any more; none if there was no object */
export const deleteObject = (pool: Pool, bucketId: string, key: string): Promise<string[]> =>
  transaction(pool, async (client) => {
    await lockBucket(client, bucketId);
    const removed = await removeRows(client, bucketId, key);
    if (!removed) return [];
    await charge(client, bucketId, -removed.sizeBytes, -1);
    return removed.blobs;
  });

export const findObject = (database: Queryable, bucketId: string, key: string) =>
  queryOne<StoredObject>(
    database,
    `select key, size_bytes::float8 as "sizeBytes", etag, headers, metadata, checksum,
       modified_at as "modifiedAt",
       (select coalesce(json_agg(json_build_object('blob', blob, 'sizeBytes', size_bytes) order by position), '[]')
        from object_store.segments where object_id = o.id) as segments
     from object_store.objects o where bucket_id = $1 and key = $2`,
    [bucketId, key],
  );

/** Objects in byte order of their keys, from `from` on, that begin with `prefix`. */
export const listObjects = (
  database: Queryable,
  bucketId: string,
  options: { prefix: string; from: string; isInclusive: boolean; limit: number },
) =>
  query<ListedObject>(
    database,
    `select key, size_bytes::float8 as "sizeBytes", etag, modified_at as "modifiedAt",
       headers->>'content-type' as "contentType"
     from object_store.objects
     where bucket_id = $1 and starts_with(key, $2) and key >= $2
       and (key > $3 or ($4 and key = $3))
     order by key limit $5`,
    [bucketId, options.prefix, options.from, options.isInclusive, options.limit],
  );

/** Which of these blobs some row names. */
export async function findKnownBlobs(database: Queryable, blobs: string[]): Promise<Set<string>> {
  const rows = await query<{ blob: string }>(
    database,
    `select blob from object_store.segments where blob = any($1)
     union all select blob from object_store.parts where blob = any($1)`,
    [blobs],
  );
  return new Set(rows.map(({ blob }) => blob));
}
