import { randomBytes, randomUUID } from "node:crypto";
import { type Queryable, query, queryOne, transaction } from "@platform/postgres";
import type { Pool } from "pg";
import { charge, lockBucket, type NewObject, type Versioning, type WriteCondition } from "./bucket-index.ts";
import { S3Error } from "./s3-error.ts";

/** The version of what is written while a bucket keeps none. */
export const nullVersion = "null";

const newVersion = () => randomBytes(16).toString("base64url");

interface VersionRow {
  id: string;
  versionId: string;
  sizeBytes: number;
  etag: string;
  isLatest: boolean;
  isDeleteMarker: boolean;
}

const columns = `id, version_id as "versionId", size_bytes::float8 as "sizeBytes", etag,
  is_latest as "isLatest", is_delete_marker as "isDeleteMarker"`;

const findLatest = (client: Queryable, bucketId: string, key: string) =>
  queryOne<VersionRow>(
    client,
    `select ${columns} from object_store.objects where bucket_id = $1 and key = $2 and is_latest`,
    [bucketId, key],
  );

const findVersionRow = (client: Queryable, bucketId: string, key: string, versionId: string) =>
  queryOne<VersionRow>(
    client,
    `select ${columns} from object_store.objects where bucket_id = $1 and key = $2 and version_id = $3`,
    [bucketId, key, versionId],
  );

async function removeRow(client: Queryable, row: VersionRow): Promise<string[]> {
  const blobs = await query<{ blob: string }>(
    client,
    "delete from object_store.segments where object_id = $1 returning blob",
    [row.id],
  );
  await client.query("delete from object_store.objects where id = $1", [row.id]);
  return blobs.map(({ blob }) => blob);
}

/** What happened to the rows of one key: blobs that nothing names any more, and the bytes they had. */
interface Change {
  blobs: string[];
  bytes: number;
}

/**
 * Makes room for a new latest version of the key.
 * @returns what went away, and the version that the new row takes
 */
async function supersede(
  client: Queryable,
  bucketId: string,
  key: string,
  versioning: Versioning,
  latest: VersionRow | null,
): Promise<Change & { versionId: string }> {
  const change: Change = { blobs: [], bytes: 0 };
  const versionId = versioning === "Enabled" ? newVersion() : nullVersion;
  if (versionId === nullVersion) {
    const replaced = await findVersionRow(client, bucketId, key, nullVersion);
    if (replaced) {
      change.blobs = await removeRow(client, replaced);
      change.bytes = replaced.sizeBytes;
    }
  }
  if (latest)
    await client.query("update object_store.objects set is_latest = false where id = $1", [latest.id]);
  return { ...change, versionId };
}

function checkCondition(condition: WriteCondition, visible: VersionRow | null): void {
  if (condition.ifNoneMatch !== undefined && visible) throw new S3Error("PreconditionFailed");
  if (condition.ifMatch === undefined) return;
  if (!visible) throw new S3Error("NoSuchKey");
  if (condition.ifMatch !== "*" && condition.ifMatch !== visible.etag)
    throw new S3Error("PreconditionFailed");
}

export interface Written {
  versionId: string;
  /** Named by nothing once the transaction is committed. */
  blobs: string[];
}

/**
 * Makes an object visible as its key's latest version, within a transaction.
 *
 * @param alreadyCharged bytes of it that the bucket was charged for before
 */
export async function writeRows(
  client: Queryable,
  bucketId: string,
  object: NewObject,
  condition: WriteCondition,
  alreadyCharged: number,
): Promise<Written> {
  const { versioning } = await lockBucket(client, bucketId);
  const latest = await findLatest(client, bucketId, object.key);
  const visible = latest?.isDeleteMarker ? null : latest;
  checkCondition(condition, visible);
  const { blobs, bytes, versionId } = await supersede(client, bucketId, object.key, versioning, latest);
  await charge(client, bucketId, object.sizeBytes - alreadyCharged - bytes, visible ? 0 : 1);
  const id = randomUUID();
  await client.query(
    `insert into object_store.objects
       (id, bucket_id, key, size_bytes, etag, headers, metadata, checksum, tags, version_id)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
    [
      id,
      bucketId,
      object.key,
      object.sizeBytes,
      object.etag,
      object.headers,
      object.metadata,
      object.checksum,
      object.tags,
      versionId,
    ],
  );
  await client.query(
    `insert into object_store.segments (object_id, position, blob, size_bytes)
     select $1, at, blob, size from unnest($2::text[], $3::bigint[]) with ordinality as t(blob, size, at)`,
    [id, object.segments.map(({ blob }) => blob), object.segments.map(({ sizeBytes }) => sizeBytes)],
  );
  return { versionId, blobs };
}

export interface Deleted {
  blobs: string[];
  /** The version that was removed, or the mark that was set; `null` in a bucket without versions. */
  versionId: string | null;
  isDeleteMarker: boolean;
}

/** Hides the key behind a mark, or removes it where no versions are kept. */
async function deleteLatest(client: Queryable, bucketId: string, key: string): Promise<Deleted> {
  const { versioning } = await lockBucket(client, bucketId);
  const latest = await findLatest(client, bucketId, key);
  const isVisible = latest !== null && !latest.isDeleteMarker;
  if (versioning === "") {
    const blobs = latest ? await removeRow(client, latest) : [];
    if (latest) await charge(client, bucketId, -latest.sizeBytes, isVisible ? -1 : 0);
    return { blobs, versionId: null, isDeleteMarker: false };
  }
  const { blobs, bytes, versionId } = await supersede(client, bucketId, key, versioning, latest);
  await charge(client, bucketId, -bytes, isVisible ? -1 : 0);
  await client.query(
    `insert into object_store.objects
       (id, bucket_id, key, size_bytes, etag, headers, metadata, version_id, is_delete_marker)
     values ($1, $2, $3, 0, '', '{}', '{}', $4, true)`,
    [randomUUID(), bucketId, key, versionId],
  );
  return { blobs, versionId, isDeleteMarker: true };
}

/** Removes one version for good; the newest of those left becomes the latest. */
async function deleteVersion(
  client: Queryable,
  bucketId: string,
  key: string,
  versionId: string,
): Promise<Deleted> {
  await lockBucket(client, bucketId);
  const row = await findVersionRow(client, bucketId, key, versionId);
  if (!row) return { blobs: [], versionId, isDeleteMarker: false };
  const blobs = await removeRow(client, row);
  let change = row.isLatest && !row.isDeleteMarker ? -1 : 0;
  if (row.isLatest) {
    const next = await queryOne<VersionRow>(
      client,
      `update object_store.objects set is_latest = true where id = (
         select id from object_store.objects where bucket_id = $1 and key = $2 order by sequence desc limit 1)
       returning ${columns}`,
      [bucketId, key],
    );
    if (next && !next.isDeleteMarker) change += 1;
  }
  await charge(client, bucketId, -row.sizeBytes, change);
  return { blobs, versionId, isDeleteMarker: row.isDeleteMarker };
}

export const commitObject = (
  pool: Pool,
  bucketId: string,
  object: NewObject,
  condition: WriteCondition = {},
): Promise<Written> => transaction(pool, (client) => writeRows(client, bucketId, object, condition, 0));

/** @param versionId `undefined`: what the key names now */
export const deleteObject = (
  pool: Pool,
  bucketId: string,
  key: string,
  versionId?: string,
): Promise<Deleted> =>
  transaction(pool, (client) =>
    versionId === undefined
      ? deleteLatest(client, bucketId, key)
      : deleteVersion(client, bucketId, key, versionId),
  );

export interface ListedVersion {
  key: string;
  versionId: string;
  isLatest: boolean;
  isDeleteMarker: boolean;
  sizeBytes: number;
  etag: string;
  modifiedAt: Date;
  /** A text of digits. */
  sequence: string;
}

/**
 * Versions in order of key, newest first, that begin with `prefix`.
 * @param options.from a key: after all its versions, or, with `sequence`, after that one of them
 */
export const listVersionRows = (
  database: Queryable,
  bucketId: string,
  options: { prefix: string; from: string; sequence: string | null; isInclusive: boolean; limit: number },
) =>
  query<ListedVersion>(
    database,
    `select key, version_id as "versionId", is_latest as "isLatest", is_delete_marker as "isDeleteMarker",
       size_bytes::float8 as "sizeBytes", etag, modified_at as "modifiedAt", sequence::text as sequence
     from object_store.objects
     where bucket_id = $1 and starts_with(key, $2) and key >= $2
       and (key > $3 or ($4 and key = $3) or (key = $3 and sequence < $5::bigint))
     order by key, sequence desc limit $6`,
    [bucketId, options.prefix, options.from, options.isInclusive, options.sequence, options.limit],
  );

/** Place of a version among those of its key, `null` if there is none. */
export async function sequenceOf(
  database: Queryable,
  bucketId: string,
  key: string,
  versionId: string,
): Promise<string | null> {
  const row = await queryOne<{ sequence: string }>(
    database,
    "select sequence::text from object_store.objects where bucket_id = $1 and key = $2 and version_id = $3",
    [bucketId, key, versionId],
  );
  return row?.sequence ?? null;
}
