import { z } from "zod";
import { readSmallBody } from "./body.ts";
import { checkReach, mayDo } from "./access.ts";
import { findBucket } from "./bucket-index.ts";
import { allowQuery, type Call, checkKey, sendXml } from "./call.ts";
import type { Credential } from "./credentials.ts";
import { S3Error } from "./s3-error.ts";
import { deleteObject } from "./versions.ts";
import { parseXml, renderXml, type XmlMembers } from "./xml.ts";

export async function sendBuckets(
  call: Pick<Call, "gateway" | "response" | "query">,
  credential: Credential,
) {
  allowQuery(call, "max-buckets", "prefix", "continuation-token", "bucket-region");
  const bucket = await findBucket(call.gateway.pool, credential.bucketId);
  const isListed = bucket?.name.startsWith(call.query.get("prefix") ?? "");
  const Bucket =
    bucket && isListed ? [{ Name: bucket.name, CreationDate: bucket.createdAt.toISOString() }] : [];
  const Owner = { ID: credential.bucketId, DisplayName: credential.bucketId };
  sendXml(call, renderXml("ListAllMyBucketsResult", { Owner, Buckets: { Bucket } }));
}

export function headBucket(call: Call): void {
  allowQuery(call);
  call.response.writeHead(200, { "x-amz-bucket-region": call.gateway.region });
  call.response.end();
}

export function sendLocation(call: Call): void {
  allowQuery(call, "location");
  const { region } = call.gateway;
  const text = renderXml("LocationConstraint", {});
  // By the protocol, this region is written as no region.
  sendXml(call, region === "us-east-1" ? text : text.replace("></", `>${region}</`));
}

const Deletion = z.object({
  Delete: z.object({
    Quiet: z.string().optional(),
    Object: z
      .array(z.looseObject({ Key: z.string(), VersionId: z.string().optional() }))
      .min(1)
      .max(1000),
  }),
});

export async function deleteObjects(call: Call): Promise<void> {
  allowQuery(call, "delete");
  const parsed = Deletion.safeParse(parseXml(await readSmallBody(call.readBody(), 2 << 20)));
  if (!parsed.success) throw new S3Error("MalformedXML", undefined, { cause: parsed.error });
  const { Object: listed, Quiet } = parsed.data.Delete;
  const deleted: XmlMembers[] = [];
  const failed: XmlMembers[] = [];
  for (const { Key, VersionId } of listed) {
    try {
      checkKey(Key);
      checkReach(call.credential, Key);
      const removed = await deleteObject(call.gateway.pool, call.bucket.id, Key, VersionId);
      await call.gateway.blobs.remove(removed.blobs);
      const mark = removed.isDeleteMarker
        ? { DeleteMarker: true, DeleteMarkerVersionId: removed.versionId! }
        : {};
      deleted.push({ Key, VersionId, ...mark });
    } catch (error) {
      if (!(error instanceof S3Error)) throw error;
      failed.push({ Key, Code: error.code, Message: error.message });
    }
  }
  const isQuiet = Quiet?.trim() === "true";
  sendXml(call, renderXml("DeleteResult", { Deleted: isQuiet ? [] : deleted, Error: failed }));
}

/** Buckets are made by the control plane; tools that always try to make theirs may go on. */
export function createBucket(call: Call): void {
  allowQuery(call);
  if (call.credential && !mayDo(call.credential, "put")) throw new S3Error("AccessDenied");
  throw new S3Error("BucketAlreadyOwnedByYou");
}
