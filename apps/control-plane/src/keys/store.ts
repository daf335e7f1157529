import { PlatformError, notFound } from "@platform/contract";
import { queryOne, type Queryable } from "@platform/postgres";
import type { Caller } from "../http/index.ts";
import { isUuid } from "../tenants/index.ts";
import { covers } from "./rights.ts";
import type { ApiKeyRow } from "./row.ts";
import { newSecret } from "./secret.ts";

export type NewKey = Pick<
  ApiKeyRow,
  | "id"
  | "name"
  | "key_type"
  | "kind"
  | "scopes"
  | "workspace_id"
  | "external_user_id"
  | "allowed_ips"
  | "rate_limit_rpm"
  | "expires_at"
>;

function statusOf(row: ApiKeyRow): "active" | "revoked" | "expired" {
  if (row.revoked_at) return "revoked";
  return row.expires_at && row.expires_at.getTime() <= Date.now() ? "expired" : "active";
}

export const keyView = (row: ApiKeyRow) => ({
  id: row.id,
  name: row.name,
  key_prefix: row.key_prefix,
  last_four: row.last_four,
  key_type: row.key_type,
  status: statusOf(row),
  scopes: row.scopes ?? ["*"],
  workspace_id: row.workspace_id,
  external_user_id: row.external_user_id,
  allowed_ips: row.allowed_ips ?? [],
  rate_limit_rpm: row.rate_limit_rpm,
  expires_at: row.expires_at?.toISOString() ?? null,
  last_used_at: row.last_used_at?.toISOString() ?? null,
  revoked_at: row.revoked_at?.toISOString() ?? null,
  created_at: row.created_at.toISOString(),
});

/**
 * Stores a key and returns its secret, which is kept nowhere else. The same id again means that the
 * first answer never reached its client: the secret is made anew, and the lost one is void.
 */
export async function insertKey(
  db: Queryable,
  caller: Caller,
  key: NewKey,
): Promise<{ row: ApiKeyRow; secret: string }> {
  const { secret, hash, prefix, lastFour } = newSecret(key.key_type);
  const row = await queryOne<ApiKeyRow>(
    db,
    `insert into api_keys (id, tenant_id, name, hash, key_prefix, last_four, key_type, kind, scopes, workspace_id, external_user_id,
       allowed_ips, rate_limit_rpm, expires_at, created_by)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
     on conflict (id) do update set hash = excluded.hash, key_prefix = excluded.key_prefix, last_four = excluded.last_four
       where api_keys.tenant_id = excluded.tenant_id and api_keys.created_by = excluded.created_by and api_keys.revoked_at is null
     returning *`,
    [
      key.id,
      caller.tenantId,
      key.name,
      hash,
      prefix,
      lastFour,
      key.key_type,
      key.kind,
      key.scopes,
      key.workspace_id,
      key.external_user_id,
      key.allowed_ips,
      key.rate_limit_rpm,
      key.expires_at,
      caller.keyId,
    ],
  );
  if (!row)
    throw new PlatformError("CONFLICT", "The key of this request was revoked meanwhile. Create a new one.");
  return { row, secret };
}

export async function ownKey(db: Queryable, caller: Caller): Promise<ApiKeyRow> {
  const row = await queryOne<ApiKeyRow>(db, "select * from api_keys where id = $1", [caller.keyId]);
  if (!row) throw new PlatformError("UNAUTHENTICATED", "The key is not known. Create a new one.");
  return row;
}

/** @throws PlatformError FORBIDDEN when the caller is itself a delegated credential */
export async function delegator(db: Queryable, caller: Caller): Promise<ApiKeyRow> {
  const row = await ownKey(db, caller);
  if (row.kind === "key" && row.external_user_id === null) return row;
  throw new PlatformError(
    "FORBIDDEN",
    "A credential that was made for one user cannot make others. Use the tenant's own key.",
  );
}

/**
 * A key that the caller may see and change: itself, and keys with no more rights than its own.
 *
 * @throws PlatformError INVALID_ID, NOT_FOUND
 */
export async function visibleKey(
  db: Queryable,
  caller: Caller,
  id: string,
  kind: "key" | "token" = "key",
): Promise<ApiKeyRow> {
  if (!isUuid(id))
    throw new PlatformError("INVALID_ID", `"${id.slice(0, 100)}" is not a UUID. Use an id from the list.`);
  const own = await ownKey(db, caller);
  const row = await queryOne<ApiKeyRow>(
    db,
    "select * from api_keys where id = $1 and tenant_id = $2 and kind = $3",
    [id, caller.tenantId, kind],
  );
  const mayManage = own.kind === "key" && own.external_user_id === null;
  if (!row || (row.id !== own.id && !(mayManage && covers(own, row))))
    throw notFound(`${kind === "key" ? "Key" : "Token"} ${id}`);
  return row;
}

/** Ends a key and the tokens made with it: what it delegated ends with it. */
export async function revokeIn(db: Queryable, id: string, rotated = false): Promise<void> {
  await db.query(
    `update api_keys set revoked_at = coalesce(revoked_at, now())${rotated ? ", rotated_at = now()" : ""} where id = $1`,
    [id],
  );
  await db.query(
    "update api_keys set revoked_at = now() where created_by = $1 and kind = 'token' and revoked_at is null",
    [id],
  );
}
