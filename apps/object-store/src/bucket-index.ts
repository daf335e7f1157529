import { type Queryable, query, queryOne, transaction } from "@platform/postgres";
import type { Pool } from "pg";
import type { Segment } from "./blobs.ts";
import type { Checksum } from "./checksums.ts";
import { S3Error } from "./s3-error.ts";

/** Whether a bucket keeps versions; `''`: it never did. */
export type Versioning = "" | "Enabled" | "Suspended";

/** Documents of the protocol that a bucket may have, parsed. */
export type DocumentName = "cors" | "lifecycle" | "tagging";

export interface Bucket {
  id: string;
  name: string;
  /** `null`: unlimited. */
  quotaBytes: number | null;
  isPublic: boolean;
  usedBytes: number;
  /** Keys that a list shows. */
  objectCount: number;
  versioning: Versioning;
  documents: Partial<Record<DocumentName, unknown>>;
  createdAt: Date;
}

/** Headers that are stored with an object and given back, names in lower case. */
export type StoredHeaders = Record<string, string>;
/** At most ten. */
export type Tags = Record<string, string>;

export interface NewObject {
  key: string;
  sizeBytes: number;
  etag: string;
  headers: StoredHeaders;
  metadata: StoredHeaders;
  checksum: Checksum | null;
  tags: Tags;
  segments: readonly Segment[];
}

export interface StoredObject extends NewObject {
  modifiedAt: Date;
  versionId: string;
  /** Stands for a deletion; has no content. */
  isDeleteMarker: boolean;
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
  used_bytes::float8 as "usedBytes", object_count::float8 as "objectCount", versioning, documents,
  created_at as "createdAt"`;

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
export async function lockBucket(client: Queryable, bucketId: string): Promise<{ versioning: Versioning }> {
  const row = await queryOne<{ versioning: Versioning }>(
    client,
    "select versioning from object_store.buckets where id = $1 for update",
    [bucketId],
  );
  if (!row) throw new S3Error("NoSuchBucket");
  return row;
}

/** @param versionId `undefined`: what the key names now, which may be the mark of a deletion */
export const findObject = (database: Queryable, bucketId: string, key: string, versionId?: string) =>
  queryOne<StoredObject>(
    database,
    `select key, size_bytes::float8 as "sizeBytes", etag, headers, metadata, checksum, tags,
       modified_at as "modifiedAt", version_id as "versionId", is_delete_marker as "isDeleteMarker",
       (select coalesce(json_agg(json_build_object('blob', blob, 'sizeBytes', size_bytes) order by position), '[]')
        from object_store.segments where object_id = o.id) as segments
     from object_store.objects o
     where bucket_id = $1 and key = $2 and case when $3::text is null then is_latest else version_id = $3 end`,
    [bucketId, key, versionId ?? null],
  );

/** @returns whether the object was there */
export async function setTags(
  database: Queryable,
  bucketId: string,
  key: string,
  versionId: string,
  tags: Tags,
): Promise<boolean> {
  const rows = await query(
    database,
    `update object_store.objects set tags = $4 where bucket_id = $1 and key = $2 and version_id = $3 returning id`,
    [bucketId, key, versionId, tags],
  );
  return rows.length > 0;
}

export const setVersioning = (database: Queryable, bucketId: string, versioning: Versioning) =>
  query(database, "update object_store.buckets set versioning = $2 where id = $1", [bucketId, versioning]);

/** @param document `null` removes it */
export const setDocument = (database: Queryable, bucketId: string, name: DocumentName, document: unknown) =>
  query(
    database,
    `update object_store.buckets
     set documents = case when $3::jsonb is null then documents - $2 else documents || jsonb_build_object($2::text, $3::jsonb) end
     where id = $1`,
    [bucketId, name, document === null ? null : JSON.stringify(document)],
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
     where bucket_id = $1 and is_latest and not is_delete_marker and starts_with(key, $2) and key >= $2
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
