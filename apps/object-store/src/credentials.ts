import { randomBytes } from "node:crypto";
import { type Queryable, query, queryOne } from "@platform/postgres";
import type { Sealer } from "./secrets.ts";

export type Access = "read" | "write";
/** `configure`: settings of the bucket itself, such as versioning, CORS and lifecycle. */
export const actions = ["get", "list", "put", "delete", "configure"] as const;
export type Action = (typeof actions)[number];

/** What a key is held to. */
export interface Bounds {
  access: Access;
  /** `null`: what the access stands for. */
  actions: Action[] | null;
  /** Every key that it may touch or list begins so; empty for all. */
  prefix: string;
}

export interface Credential extends Bounds {
  accessKeyId: string;
  bucketId: string;
  secretAccessKey: string;
}

export async function createCredential(
  database: Queryable,
  sealer: Sealer,
  bucketId: string,
  bounds: Bounds,
  isInternal = false,
): Promise<Credential> {
  const accessKeyId = `K${randomBytes(10).toString("hex").toUpperCase()}`.slice(0, 20);
  const secretAccessKey = randomBytes(30).toString("base64url");
  await query(
    database,
    `insert into object_store.credentials
       (access_key_id, bucket_id, access, encrypted_secret, is_internal, prefix, actions)
     values ($1, $2, $3, $4, $5, $6, $7)`,
    [
      accessKeyId,
      bucketId,
      bounds.access,
      sealer.seal(secretAccessKey, accessKeyId),
      isInternal,
      bounds.prefix,
      bounds.actions,
    ],
  );
  return { accessKeyId, bucketId, ...bounds, secretAccessKey };
}

export async function findCredential(
  database: Queryable,
  sealer: Sealer,
  accessKeyId: string,
): Promise<Credential | null> {
  const row = await queryOne<Bounds & { bucketId: string; encryptedSecret: Buffer }>(
    database,
    `select bucket_id as "bucketId", access, actions, prefix, encrypted_secret as "encryptedSecret"
     from object_store.credentials where access_key_id = $1`,
    [accessKeyId],
  );
  if (!row) return null;
  const { encryptedSecret, ...bounds } = row;
  return { accessKeyId, ...bounds, secretAccessKey: sealer.open(encryptedSecret, accessKeyId) };
}

const everything: Bounds = { access: "write", actions: null, prefix: "" };

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
  return found ?? createCredential(database, sealer, bucketId, everything, true);
}

export const deleteCredential = (database: Queryable, bucketId: string, accessKeyId: string) =>
  query(database, "delete from object_store.credentials where bucket_id = $1 and access_key_id = $2", [
    bucketId,
    accessKeyId,
  ]);

/** Keys that were handed out, newest first. */
export const listCredentials = (database: Queryable, bucketId: string) =>
  query<Bounds & { accessKeyId: string; createdAt: Date }>(
    database,
    `select access_key_id as "accessKeyId", access, actions, prefix, created_at as "createdAt"
     from object_store.credentials where bucket_id = $1 and not is_internal
     order by created_at desc, access_key_id limit 1000`,
    [bucketId],
  );
