import { notFound, PlatformError } from "@platform/contract";
import { queryOne, type Queryable } from "@platform/postgres";
import type { Caller } from "../http/index.ts";
import { isUuid, mayUse, type OwnedRow } from "../tenants/index.ts";
import type { Settings, Usage } from "./object-store.ts";

/** `ready` is stored only after an object was written, read and removed in it; `abandoned` never was. */
export type BucketState = "creating" | "ready" | "deleting" | "abandoned";

export interface BucketRow extends OwnedRow {
  readonly name: string;
  /** Its name in host names and paths: unique over all tenants. */
  readonly store_name: string;
  readonly region: string;
  readonly visibility: "private" | "public";
  readonly quota_bytes: string | null;
  readonly state: BucketState;
}

export const loadBucket = (db: Queryable, id: string) =>
  queryOne<BucketRow>(db, "select * from buckets where id = $1", [id]);

/** By id or by name. @throws PlatformError NOT_FOUND; another tenant's bucket does not exist */
export async function ownBucket(db: Queryable, caller: Caller, id: string): Promise<BucketRow> {
  const row = isUuid(id)
    ? await loadBucket(db, id)
    : await queryOne<BucketRow>(db, "select * from buckets where tenant_id = $1 and name = $2", [
        caller.tenantId,
        id,
      ]);
  if (!row && !isUuid(id) && !/^[a-z0-9-]{3,63}$/.test(id))
    throw new PlatformError(
      "INVALID_ID",
      `"${id.slice(0, 100)}" is neither a UUID nor the name of a bucket. Use an id from GET /storage/buckets.`,
    );
  const visible = row && row.state === "ready" && mayUse(caller, row);
  if (!visible) throw notFound(`Bucket ${id}`);
  return row;
}

export const bucketView = (row: BucketRow, usage: Usage) => ({
  id: row.id,
  tenant_id: row.tenant_id,
  workspace_id: row.workspace_id,
  project_id: row.project_id,
  external_workspace_id: row.external_workspace_id,
  external_user_id: row.external_user_id,
  external_project_id: row.external_project_id,
  name: row.name,
  bucket: row.store_name,
  region: row.region,
  visibility: row.visibility,
  public: row.visibility === "public",
  quota_bytes: row.quota_bytes === null ? null : Number(row.quota_bytes),
  used_bytes: usage.bytes,
  size_bytes: usage.bytes,
  object_count: usage.objects,
  metadata: row.metadata,
  created_at: row.created_at.toISOString(),
  inserted_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
});

export const settingsView = (settings: Settings) => ({
  versioning: settings.versioning === null ? "off" : settings.versioning.toLowerCase(),
  cors_origins: settings.corsOrigins ?? [],
  expire_after_days: settings.expireAfterDays,
});
