import { randomBytes } from "node:crypto";
import { type Queryable, query, queryOne, transaction } from "@platform/postgres";
import type { Pool } from "pg";
import type { Segment } from "./blobs.ts";
import {
  charge,
  lockBucket,
  type NewObject,
  type StoredHeaders,
  type Tags,
  type WriteCondition,
} from "./bucket-index.ts";
import type { Checksum, ChecksumAlgorithm } from "./checksums.ts";
import { S3Error } from "./s3-error.ts";
import { type Written, writeRows } from "./versions.ts";

export interface Upload {
  id: string;
  key: string;
  headers: StoredHeaders;
  metadata: StoredHeaders;
  checksumAlgorithm: ChecksumAlgorithm | null;
  tags: Tags;
  createdAt: Date;
}

export interface Part {
  number: number;
  blob: string;
  sizeBytes: number;
  /** Hexadecimal; the part's entity tag. */
  md5: string;
  checksum: Checksum | null;
  modifiedAt: Date;
}

const uploadColumns = `id, key, headers, metadata, tags, checksum_algorithm as "checksumAlgorithm", created_at as "createdAt"`;
const partColumns = `number, blob, size_bytes::float8 as "sizeBytes", md5, checksum, modified_at as "modifiedAt"`;

export async function createUpload(
  database: Queryable,
  bucketId: string,
  upload: Omit<Upload, "id" | "createdAt">,
): Promise<string> {
  const id = randomBytes(24).toString("base64url");
  await query(
    database,
    `insert into object_store.uploads (id, bucket_id, key, headers, metadata, checksum_algorithm, tags)
     values ($1, $2, $3, $4, $5, $6, $7)`,
    [id, bucketId, upload.key, upload.headers, upload.metadata, upload.checksumAlgorithm, upload.tags],
  );
  return id;
}

/** @throws S3Error NoSuchUpload, also if the upload is for another key */
export async function findUpload(
  database: Queryable,
  bucketId: string,
  key: string,
  id: string,
  lock = "",
): Promise<Upload> {
  const upload = await queryOne<Upload>(
    database,
    `select ${uploadColumns} from object_store.uploads where bucket_id = $1 and key = $2 and id = $3 ${lock}`,
    [bucketId, key, id],
  );
  if (!upload) throw new S3Error("NoSuchUpload");
  return upload;
}

/** @returns blob of the part that this one replaces */
export const commitPart = (
  pool: Pool,
  bucketId: string,
  upload: Pick<Upload, "id" | "key">,
  part: Omit<Part, "modifiedAt">,
): Promise<string[]> =>
  transaction(pool, async (client) => {
    await lockBucket(client, bucketId);
    await findUpload(client, bucketId, upload.key, upload.id);
    const previous = await queryOne<{ blob: string; sizeBytes: number }>(
      client,
      `delete from object_store.parts where upload_id = $1 and number = $2
       returning blob, size_bytes::float8 as "sizeBytes"`,
      [upload.id, part.number],
    );
    await charge(client, bucketId, part.sizeBytes - (previous?.sizeBytes ?? 0), 0);
    await client.query(
      `insert into object_store.parts (upload_id, number, blob, size_bytes, md5, checksum)
       values ($1, $2, $3, $4, $5, $6)`,
      [upload.id, part.number, part.blob, part.sizeBytes, part.md5, part.checksum],
    );
    return previous ? [previous.blob] : [];
  });

export const listParts = (database: Queryable, uploadId: string, after: number, limit: number) =>
  query<Part>(
    database,
    `select ${partColumns} from object_store.parts where upload_id = $1 and number > $2
     order by number limit $3`,
    [uploadId, after, limit],
  );

/** Uploads in progress in order of key and id, after the given pair. */
export const listUploads = (
  database: Queryable,
  bucketId: string,
  options: { prefix: string; afterKey: string; afterId: string; limit: number },
) =>
  query<Upload>(
    database,
    `select ${uploadColumns} from object_store.uploads
     where bucket_id = $1 and starts_with(key, $2)
       and (key > $3 or (key = $3 and $4 <> '' and id collate "C" > $4))
     order by key, id collate "C" limit $5`,
    [bucketId, options.prefix, options.afterKey, options.afterId, options.limit],
  );

async function removeUpload(client: Queryable, uploadId: string) {
  const parts = await query<Segment>(
    client,
    `delete from object_store.parts where upload_id = $1 returning blob, size_bytes::float8 as "sizeBytes"`,
    [uploadId],
  );
  await client.query("delete from object_store.uploads where id = $1", [uploadId]);
  return parts;
}

const sizeOf = (segments: readonly Segment[]) => segments.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);

/** @returns blobs that nothing names any more */
export const abortUpload = (pool: Pool, bucketId: string, key: string, id: string): Promise<string[]> =>
  transaction(pool, async (client) => {
    await lockBucket(client, bucketId);
    await findUpload(client, bucketId, key, id);
    const parts = await removeUpload(client, id);
    await charge(client, bucketId, -sizeOf(parts), 0);
    return parts.map(({ blob }) => blob);
  });

/**
 * Makes the object of an upload visible and ends the upload.
 * @param object made from parts read before; refused if one was replaced since
 * @returns its version, and blobs that nothing names any more
 */
export const completeUpload = (
  pool: Pool,
  bucketId: string,
  uploadId: string,
  object: NewObject,
  condition: WriteCondition,
): Promise<Written> =>
  transaction(pool, async (client) => {
    await lockBucket(client, bucketId);
    await findUpload(client, bucketId, object.key, uploadId);
    const parts = await removeUpload(client, uploadId);
    const present = new Set(parts.map(({ blob }) => blob));
    if (!object.segments.every(({ blob }) => present.has(blob))) throw new S3Error("InvalidPart");
    const used = new Set(object.segments.map(({ blob }) => blob));
    const unused = parts.filter(({ blob }) => !used.has(blob));
    await charge(client, bucketId, -sizeOf(unused), 0);
    const written = await writeRows(client, bucketId, object, condition, object.sizeBytes);
    return { ...written, blobs: [...unused.map(({ blob }) => blob), ...written.blobs] };
  });

/** Uploads begun before, at most 1000. @param bucketId `null`: of any bucket */
export const listAbandoned = (
  database: Queryable,
  before: Date,
  bucketId: string | null = null,
  prefix = "",
) =>
  query<{ id: string; key: string; bucketId: string }>(
    database,
    `select id, key, bucket_id as "bucketId" from object_store.uploads
     where created_at < $1 and ($2::text is null or bucket_id = $2) and starts_with(key, $3)
     order by created_at limit 1000`,
    [before, bucketId, prefix],
  );
