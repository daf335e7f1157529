import { query } from "@platform/postgres";
import type { Pool } from "pg";
import type { Blobs } from "./blobs.ts";
import { filterOf, type Filter, type LifecycleRule, parseRules } from "./lifecycle-rules.ts";
import { S3Error } from "./s3-error.ts";
import { abortUpload, listAbandoned } from "./upload-index.ts";
import { deleteObject } from "./versions.ts";

const dayMs = 86_400_000;
/** Rows that one rule handles in one run; the next run goes on. */
const batch = 1000;
/** Parts count against the quota of their bucket, so forgotten ones must not stay. */
const abandonedAfterDays = 7;

interface Store {
  pool: Pool;
  blobs: Blobs;
}

interface DueRow {
  key: string;
  versionId: string;
}

const matching = `bucket_id = $1 and starts_with(key, $2) and tags @> $3::jsonb and size_bytes between $4 and $5`;
const parameters = (bucketId: string, { prefix, tags, minBytes, maxBytes }: Filter) => [
  bucketId,
  prefix,
  tags,
  minBytes,
  maxBytes,
];

async function removeAll(
  { pool, blobs }: Store,
  bucketId: string,
  rows: readonly DueRow[],
  version: (row: DueRow) => string | undefined,
): Promise<number> {
  for (const row of rows) {
    const deleted = await deleteObject(pool, bucketId, row.key, version(row));
    await blobs.remove(deleted.blobs);
  }
  return rows.length;
}

/** Latest versions become hidden (or go, where no versions are kept); noncurrent ones go for good. */
async function expire(store: Store, bucketId: string, rule: LifecycleRule, now: number): Promise<number> {
  const { pool } = store;
  const shared = parameters(bucketId, filterOf(rule));
  let removed = 0;
  const { Expiration, NoncurrentVersionExpiration: noncurrent } = rule;
  const date = Expiration?.Date === undefined ? null : Date.parse(Expiration.Date);
  const before =
    Expiration?.Days !== undefined
      ? now - Expiration.Days * dayMs
      : date !== null && date <= now
        ? now
        : null;
  if (before !== null) {
    const due = await query<DueRow>(
      pool,
      `select key, version_id as "versionId" from object_store.objects
       where ${matching} and is_latest and not is_delete_marker and modified_at <= $6 limit ${batch}`,
      [...shared, new Date(before)],
    );
    removed += await removeAll(store, bucketId, due, () => undefined);
  }
  if (Expiration?.ExpiredObjectDeleteMarker) {
    const due = await query<DueRow>(
      pool,
      `select key, version_id as "versionId" from object_store.objects o
       where ${matching} and is_latest and is_delete_marker
         and not exists (select from object_store.objects other
           where other.bucket_id = o.bucket_id and other.key = o.key and not other.is_latest)
       limit ${batch}`,
      shared,
    );
    removed += await removeAll(store, bucketId, due, ({ versionId }) => versionId);
  }
  if (noncurrent) {
    // A version is noncurrent since the one after it was written.
    const due = await query<DueRow>(
      pool,
      `select key, "versionId" from (
         select bucket_id, key, tags, size_bytes, version_id as "versionId", is_latest,
           lag(modified_at) over newest_first as since, row_number() over newest_first as place
         from object_store.objects where bucket_id = $1 and starts_with(key, $2)
         window newest_first as (partition by key order by sequence desc)) versions
       where ${matching} and not is_latest and since <= $6 and place > $7 limit ${batch}`,
      [
        ...shared,
        new Date(now - noncurrent.NoncurrentDays * dayMs),
        (noncurrent.NewerNoncurrentVersions ?? 0) + 1,
      ],
    );
    removed += await removeAll(store, bucketId, due, ({ versionId }) => versionId);
  }
  return removed;
}

async function abortOld(
  store: Store,
  before: Date,
  bucketId: string | null,
  prefix: string,
): Promise<number> {
  const { pool, blobs } = store;
  const uploads = await listAbandoned(pool, before, bucketId, prefix);
  for (const { id, key, bucketId } of uploads) {
    try {
      await blobs.remove(await abortUpload(pool, bucketId, key, id));
    } catch (error) {
      // Completed or aborted since it was listed.
      if (!(error instanceof S3Error)) throw error;
    }
  }
  return uploads.length;
}

/**
 * Applies the lifecycle rules of all buckets once, and ends uploads that nobody goes on with.
 * @param now milliseconds since the epoch
 * @returns versions, marks and uploads that were removed
 */
export async function applyLifecycle(store: Store, now: number): Promise<number> {
  let removed = await abortOld(store, new Date(now - abandonedAfterDays * dayMs), null, "");
  const buckets = await query<{ id: string; rules: unknown }>(
    store.pool,
    "select id, documents->'lifecycle' as rules from object_store.buckets where documents ? 'lifecycle'",
  );
  for (const { id, rules } of buckets) {
    for (const rule of parseRules(rules)) {
      if (rule.Status !== "Enabled") continue;
      removed += await expire(store, id, rule, now);
      const abort = rule.AbortIncompleteMultipartUpload;
      if (!abort) continue;
      const before = new Date(now - abort.DaysAfterInitiation * dayMs);
      removed += await abortOld(store, before, id, filterOf(rule).prefix);
    }
  }
  return removed;
}
