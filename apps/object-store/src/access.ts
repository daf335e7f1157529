import { type Bucket, findBucketByName } from "./bucket-index.ts";
import type { Authenticated, Gateway } from "./call.ts";
import type { Action, Credential } from "./credentials.ts";
import { S3Error } from "./s3-error.ts";

const ofAccess = {
  read: ["get", "list"],
  write: ["get", "list", "put", "delete", "configure"],
} as const satisfies Record<Credential["access"], readonly Action[]>;

/** What a key may do. One that is held to a prefix never changes what all keys of the bucket live by. */
export function mayDo(credential: Credential, action: Action): boolean {
  if (action === "configure" && credential.prefix !== "") return false;
  const allowed: readonly Action[] = credential.actions ?? ofAccess[credential.access];
  return allowed.includes(action);
}

/** @throws S3Error AccessDenied for a key of the bucket that this credential does not reach */
export function checkReach(credential: Credential | null, key: string): void {
  if (credential && !key.startsWith(credential.prefix))
    throw new S3Error("AccessDenied", `This key reaches ${credential.prefix} only.`);
}

/**
 * Finds the bucket and checks that this key may do this there. Other tenants' buckets are refused
 * before anything about them but their name's existence shows.
 *
 * @param place a key, or the prefix that a list asks for; `null` for what is about the bucket, or checks by itself
 */
export async function authorize(
  gateway: Gateway,
  { credential }: Pick<Authenticated, "credential">,
  bucketName: string,
  place: string | null,
  action: Action,
): Promise<Bucket> {
  const bucket = await findBucketByName(gateway.pool, bucketName);
  if (!bucket) throw new S3Error(credential ? "NoSuchBucket" : "AccessDenied");
  if (!credential) {
    if (bucket.isPublic && place !== null && place !== "" && action === "get") return bucket;
    throw new S3Error("AccessDenied");
  }
  if (credential.bucketId !== bucket.id || !mayDo(credential, action)) throw new S3Error("AccessDenied");
  if (place !== null) checkReach(credential, place);
  return bucket;
}
