import { randomBytes } from "node:crypto";
import { type Queryable, query, queryOne } from "@platform/postgres";
import type { Sealer } from "./secrets.ts";

export type Access = "read" | "write";

export interface Credential {
  accessKeyId: string;
  bucketId: string;
  access: Access;
  secretAccessKey: string;
}

export async function createCredential(
  database: Queryable,
  sealer: Sealer,
  bucketId: string,
  access: Access,
  isInternal = false,
): Promise<Credential> {
  const accessKeyId = `K${randomBytes(10).toString("hex").toUpperCase()}`.slice(0, 20);
  const secretAccessKey = randomBytes(30).toString("base64url");
  await query(
    database,
    `insert into object_store.credentials (access_key_id, bucket_id, access, encrypted_secret, is_internal)
     values ($1, $2, $3, $4, $5)`,
    [accessKeyId, bucketId, access, sealer.seal(secretAccessKey, accessKeyId), isInternal],
  );
  return { accessKeyId, bucketId, access, secretAccessKey };
}

export async function findCredential(
  database: Queryable,
  sealer: Sealer,
  accessKeyId: string,
): Promise<Credential | null> {
  const row = await queryOne<{ bucketId: string; access: Access; encryptedSecret: Buffer }>(
    database,
    `select bucket_id as "bucketId", access, encrypted_secret as "encryptedSecret"
     from object_store.credentials where access_key_id = $1`,
    [accessKeyId],
  );
  if (!row) return null;
  const secretAccessKey = sealer.open(row.encryptedSecret, accessKeyId);
  return { accessKeyId, bucketId: row.bucketId, access: row.access, secretAccessKey };
}

/** The key that signs this bucket's URLs. Of two made at once, both are valid. */
export async function internalCredential(
  database: Queryable,
  sealer: Sealer,
  bucketId: string,
): Promise<Credential> {
  const [row] = await query<{ id: string }>(
    database,
    `select access_key_id as id from object_store.credentials
     where bucket_id = $1 and is_internal order by created_at, access_key_id limit 1`,
    [bucketId],
  );
  const found = row ? await findCredential(database, sealer, row.id) : null;
  return found ?? createCredential(database, sealer, bucketId, "write", true);
}

export const deleteCredential = (database: Queryable, bucketId: string, accessKeyId: string) =>
  query(database, "delete from object_store.credentials where bucket_id = $1 and access_key_id = $2", [
    bucketId,
    accessKeyId,
  ]);
