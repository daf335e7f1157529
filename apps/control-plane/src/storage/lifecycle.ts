import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { PlatformError, type CreateBucket, type UpdateBucket } from "@platform/contract";
import { faultPoint } from "@platform/daemon";
import { query, transaction } from "@platform/postgres";
import type { z } from "zod";
import { record } from "../events/index.ts";
import type { Call } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { resolvePlacement } from "../tenants/index.ts";
import {
  deleteStoreBucket,
  deleteStoreObject,
  getStoreObject,
  putStoreBucket,
  putStoreObject,
  type Settings,
  StoreRefusal,
  storeUsage,
  type Usage,
} from "./object-store.ts";
import { loadBucket, type BucketRow } from "./store.ts";

type Input = z.output<typeof CreateBucket>;

const event = (row: BucketRow, type: string) => ({
  tenantId: row.tenant_id,
  workspaceId: row.workspace_id,
  type,
  resourceType: "bucket",
  resourceId: row.id,
  data: { id: row.id, name: row.name.split("/")[0] },
});

/** A row that goes away no longer holds its name. */
const released = "name = split_part(name, '/', 1) || '/' || id, updated_at = now()";

async function insertBucket(platform: Platform, call: Call, id: string, input: Input): Promise<BucketRow> {
  const owner = await resolvePlacement(platform.pool, call.caller, input);
  const visibility = input.visibility ?? (input.public ? "public" : "private");
  try {
    await platform.pool.query(
      `insert into buckets (id, tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id,
         metadata, name, store_name, region, visibility, quota_bytes)
       values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) on conflict (id) do nothing`,
      [
        id,
        call.caller.tenantId,
        owner.workspaceId,
        owner.projectId,
        input.external_workspace_id ?? null,
        input.external_user_id ?? call.caller.externalUserId,
        input.external_project_id ?? null,
        input.metadata,
        input.name,
        // Not the plain name: that would tell whether another tenant uses it.
        `${input.name.slice(0, 52)}-${id.replaceAll("-", "").slice(-10)}`,
        input.region ?? "local",
        visibility,
        input.quota_bytes ?? null,
      ],
    );
  } catch (error) {
    if ((error as { code?: string }).code !== "23505") throw error;
    throw new PlatformError(
      "NAME_TAKEN",
      `You have a bucket named ${input.name}. Use it, or choose another name.`,
      {
        details: { name: input.name },
      },
    );
  }
  return (await loadBucket(platform.pool, id))!;
}

/** @returns the usage after the probe's object is gone again */
async function probeBucket(platform: Platform, row: BucketRow): Promise<Usage> {
  const key = `.probe/${randomBytes(8).toString("hex")}`;
  const content = randomBytes(16).toString("hex");
  await putStoreObject(platform, row.id, key, Readable.from([content]), {
    "content-type": "text/plain",
    "content-length": String(content.length),
  });
  try {
    const found = await getStoreObject(platform, row.id, key);
    const seen = found ? await text(found.body) : null;
    if (seen !== content)
      throw new PlatformError(
        "STORAGE_UNAVAILABLE",
        "Object storage did not give back what was written to it. The bucket was not created; retry.",
        { retryAfterMs: 5_000 },
      );
  } finally {
    await deleteStoreObject(platform, row.id, key);
  }
  return usageOf(platform, row);
}

/** @throws PlatformError STORAGE_UNAVAILABLE also when the store has lost the bucket */
export async function usageOf(platform: Platform, row: BucketRow): Promise<Usage> {
  const usage = await storeUsage(platform, row.id);
  if (usage) return usage;
  throw new PlatformError(
    "STORAGE_UNAVAILABLE",
    `Object storage does not know the bucket ${row.name} any more. Tell us the request id.`,
    { retryAfterMs: 30_000 },
  );
}

/** Answers only for a bucket that was seen to store, give back and forget an object. */
export async function createBucket(
  platform: Platform,
  call: Call,
  input: Input,
): Promise<{ row: BucketRow; usage: Usage }> {
  const id = call.idFor("bucket");
  let found = await loadBucket(platform.pool, id);
  if (found?.state === "ready") return { row: found, usage: await usageOf(platform, found) };
  if (found && found.state !== "creating") {
    // The first attempt of this very call failed; what it left must be gone before the second.
    await finishDeletion(platform, found);
    found = null;
  }
  const row = found ?? (await insertBucket(platform, call, id, input));
  faultPoint("control-plane.bucket.after-row");
  try {
    const wanted = Number(row.quota_bytes ?? Number.NaN);
    await putStoreBucket(platform, row.id, {
      name: row.store_name,
      // The probe's object must fit, also where the tenant may store nothing.
      quotaBytes: null,
      public: false,
    });
    const usage = await probeBucket(platform, row);
    await putStoreBucket(platform, row.id, {
      name: row.store_name,
      quotaBytes: Number.isNaN(wanted) ? null : wanted,
      public: row.visibility === "public",
    });
    faultPoint("control-plane.bucket.before-ready");
    const stored = await platform.pool.query(
      "update buckets set state = 'ready', updated_at = now() where id = $1 and state = 'creating'",
      [row.id],
    );
    if (stored.rowCount === 1) await record(platform, event(row, "bucket.created"));
    return { row: (await loadBucket(platform.pool, row.id)) ?? row, usage };
  } catch (error) {
    // The name is free again at once; what the store may hold is removed by the chore.
    await platform.pool.query(
      `update buckets set state = 'abandoned', ${released} where id = $1 and state = 'creating'`,
      [row.id],
    );
    if (error instanceof StoreRefusal)
      throw new PlatformError("STORAGE_UNAVAILABLE", "Object storage refused the bucket. Retry.", {
        retryAfterMs: 5_000,
        cause: error,
      });
    throw error;
  }
}

/** The store first, then the row: what a reader is told was seen to be in force. */
export async function updateBucket(
  platform: Platform,
  row: BucketRow,
  change: z.output<typeof UpdateBucket>,
): Promise<{ row: BucketRow; settings: Settings }> {
  const isPublic = change.visibility === undefined ? change.public : change.visibility === "public";
  const visibility = isPublic === undefined ? row.visibility : isPublic ? "public" : "private";
  const wanted = change.quota_bytes ?? row.quota_bytes;
  const quota = Number(wanted) === -1 ? null : wanted;
  const settings = await putStoreBucket(platform, row.id, {
    name: row.store_name,
    quotaBytes: quota === null ? null : Number(quota),
    public: visibility === "public",
    versioning: change.versioning && (change.versioning === "enabled" ? "Enabled" : "Suspended"),
    corsOrigins: change.cors_origins,
    expireAfterDays: change.expire_after_days === 0 ? null : change.expire_after_days,
  });
  await platform.pool.query(
    `update buckets set visibility = $2, quota_bytes = $3, metadata = coalesce($4, metadata), updated_at = now()
     where id = $1 and state = 'ready'`,
    [row.id, visibility, quota, change.metadata ?? null],
  );
  await record(platform, event(row, "bucket.updated"));
  return { row: (await loadBucket(platform.pool, row.id)) ?? row, settings };
}

/** @throws PlatformError BUCKET_NOT_EMPTY unless `force` */
export async function deleteBucket(platform: Platform, row: BucketRow, force: boolean): Promise<void> {
  const usage = await storeUsage(platform, row.id);
  if (usage && usage.objects > 0 && !force)
    throw new PlatformError(
      "BUCKET_NOT_EMPTY",
      `The bucket ${row.name} holds ${usage.objects} objects. Delete them, or repeat with force=true to delete everything.`,
      { details: { object_count: usage.objects, used_bytes: usage.bytes } },
    );
  await platform.pool.query(
    `update buckets set state = 'deleting', ${released} where id = $1 and state = 'ready'`,
    [row.id],
  );
  faultPoint("control-plane.bucket.after-deleting");
  await finishDeletion(platform, row);
}

async function finishDeletion(platform: Platform, row: BucketRow): Promise<void> {
  await deleteStoreBucket(platform, row.id);
  const gone = await transaction(platform.pool, (db) =>
    query<{ state: string }>(
      db,
      "delete from buckets where id = $1 and state in ('deleting', 'abandoned') returning state",
      [row.id],
    ),
  );
  if (gone[0]?.state === "deleting") await record(platform, event(row, "bucket.deleted"));
}

/** Ends deletions that were cut short, and creations whose caller never came back. */
export async function tidyBuckets(platform: Platform): Promise<void> {
  await platform.pool.query(
    `update buckets set state = 'abandoned', ${released}
     where state = 'creating' and updated_at < now() - interval '5 minutes'`,
  );
  for (const row of await query<BucketRow>(
    platform.pool,
    "select * from buckets where state in ('deleting', 'abandoned') limit 100",
  ))
    await finishDeletion(platform, row);
}
