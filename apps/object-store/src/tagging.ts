import { z } from "zod";
import { readSmallBody } from "./body.ts";
import { setDocument, setTags, type Tags } from "./bucket-index.ts";
import { allowQuery, type Call, send, sendXml } from "./call.ts";
import { requireObject } from "./objects.ts";
import { S3Error } from "./s3-error.ts";
import { parseTagging, renderTags } from "./tag-set.ts";
import { renderXml } from "./xml.ts";

const maxBytes = 64 << 10;

export async function sendObjectTags(call: Call): Promise<void> {
  allowQuery(call, "tagging", "versionId");
  const { tags } = await requireObject(call);
  sendXml(call, renderXml("Tagging", renderTags(tags)));
}

async function storeTags(call: Call, tags: Tags): Promise<void> {
  const { versionId } = await requireObject(call);
  if (!(await setTags(call.gateway.pool, call.bucket.id, call.key, versionId, tags)))
    throw new S3Error("NoSuchKey");
}

export async function putObjectTags(call: Call): Promise<void> {
  allowQuery(call, "tagging", "versionId");
  await storeTags(call, parseTagging(await readSmallBody(call.readBody(), maxBytes), "object"));
  send(call, 200, {});
}

export async function dropObjectTags(call: Call): Promise<void> {
  allowQuery(call, "tagging", "versionId");
  await storeTags(call, {});
  send(call, 204, {});
}

export function sendBucketTags(call: Call): void {
  allowQuery(call, "tagging");
  const tags = z.record(z.string(), z.string()).safeParse(call.bucket.documents.tagging);
  if (!tags.success) throw new S3Error("NoSuchTagSet");
  sendXml(call, renderXml("Tagging", renderTags(tags.data)));
}

export async function putBucketTags(call: Call): Promise<void> {
  allowQuery(call, "tagging");
  const tags = parseTagging(await readSmallBody(call.readBody(), maxBytes), "bucket");
  await setDocument(call.gateway.pool, call.bucket.id, "tagging", tags);
  send(call, 204, {});
}

export async function dropBucketTags(call: Call): Promise<void> {
  allowQuery(call, "tagging");
  await setDocument(call.gateway.pool, call.bucket.id, "tagging", null);
  send(call, 204, {});
}
