import type { Segment } from "./blobs.ts";
import { type Body, digested } from "./body.ts";
import { checkReach } from "./access.ts";
import { findObject, type StoredObject } from "./bucket-index.ts";
import { allowQuery, type Call, checkKey, headerOf, sendXml } from "./call.ts";
import { matchesTag } from "./conditions.ts";
import { describe, storeBody, tellVersion, writeCondition } from "./objects.ts";
import { parseTarget } from "./sigv4.ts";
import { S3Error } from "./s3-error.ts";
import { partNumberOf, uploadOf } from "./multipart.ts";
import { commitPart } from "./upload-index.ts";
import { commitObject } from "./versions.ts";
import { renderXml } from "./xml.ts";

/** HTTP dates count whole seconds. */
const seconds = (ms: number) => Math.floor(ms / 1000);

function checkSource(call: Call, object: StoredObject): void {
  const header = (name: string) => headerOf(call.request, `x-amz-copy-source-if-${name}`);
  const [match, noneMatch] = [header("match"), header("none-match")];
  const [modified, unmodified] = [header("modified-since"), header("unmodified-since")];
  const at = seconds(object.modifiedAt.getTime());
  const isRefused =
    (match !== undefined && !matchesTag(match, object.etag)) ||
    (noneMatch !== undefined && matchesTag(noneMatch, object.etag)) ||
    (match === undefined && unmodified !== undefined && at > seconds(Date.parse(unmodified))) ||
    (noneMatch === undefined && modified !== undefined && at <= seconds(Date.parse(modified)));
  if (isRefused) throw new S3Error("PreconditionFailed");
}

async function findSource(call: Call): Promise<StoredObject> {
  const source = headerOf(call.request, "x-amz-copy-source")!;
  const { path, query } = parseTarget(source.startsWith("/") ? source : `/${source}`);
  const [, bucketName, ...rest] = path.split("/");
  const key = rest.join("/");
  // A key belongs to one bucket, so no other can be a source.
  if (bucketName !== call.bucket.name) throw new S3Error("AccessDenied");
  checkReach(call.credential, key);
  const versionId = new Map(query).get("versionId");
  if (query.some(([name]) => name !== "versionId")) throw new S3Error("InvalidArgument");
  const object = await findObject(call.gateway.pool, call.bucket.id, key, versionId);
  if (!object) throw new S3Error(versionId === undefined ? "NoSuchKey" : "NoSuchVersion");
  if (object.isDeleteMarker) throw new S3Error(versionId === undefined ? "NoSuchKey" : "InvalidRequest");
  checkSource(call, object);
  if (call.bucket.versioning !== "")
    call.response.setHeader("x-amz-copy-source-version-id", object.versionId);
  return object;
}

/** @returns whether what was sent replaces what the source has */
function replaces(call: Call, name: "metadata" | "tagging"): boolean {
  const directive = headerOf(call.request, `x-amz-${name}-directive`) ?? "COPY";
  if (directive !== "COPY" && directive !== "REPLACE")
    throw new S3Error("InvalidArgument", `The ${name} directive must be COPY or REPLACE.`);
  return directive === "REPLACE";
}

export async function copyObject(call: Call): Promise<void> {
  allowQuery(call);
  checkKey(call.key);
  const condition = writeCondition(call);
  const [hasOwnMetadata, hasOwnTags] = [replaces(call, "metadata"), replaces(call, "tagging")];
  const source = await findSource(call);
  const described = describe(call.request.headers);
  const isSame = source.key === call.key && !source.isDeleteMarker;
  if (isSame && !hasOwnMetadata && !hasOwnTags && call.bucket.versioning === "")
    throw new S3Error("InvalidRequest", "An object copied onto itself must change its metadata.");
  const { headers, metadata } = hasOwnMetadata ? described : source;
  const tags = hasOwnTags ? described.tags : source.tags;
  const { blobs, pool } = call.gateway;
  const release = blobs.hold(source.segments);
  const segments: Segment[] = [];
  let modified: Date | undefined;
  try {
    for (const segment of source.segments) segments.push(await blobs.copy(segment));
    const object = { ...source, key: call.key, headers, metadata, tags, segments };
    const written = await commitObject(pool, call.bucket.id, object, condition);
    await blobs.remove(written.blobs);
    tellVersion(call, written.versionId);
    modified = (await findObject(pool, call.bucket.id, call.key, written.versionId))?.modifiedAt;
  } catch (error) {
    if (error instanceof S3Error) await blobs.remove(segments.map(({ blob }) => blob));
    if ((error as NodeJS.ErrnoException).code === "ENOENT") throw new S3Error("NoSuchKey");
    throw error;
  } finally {
    await release();
  }
  const LastModified = (modified ?? new Date(call.gateway.now())).toISOString();
  const { checksum } = source;
  const named = checksum ? { [`Checksum${checksum.algorithm}`]: checksum.value } : {};
  sendXml(call, renderXml("CopyObjectResult", { LastModified, ETag: `"${source.etag}"`, ...named }));
}

/** First and last byte of the source that a part takes, both within it. */
function sourceRange(call: Call, sizeBytes: number): [number, number] {
  const header = headerOf(call.request, "x-amz-copy-source-range");
  if (header === undefined) return [0, sizeBytes - 1];
  const match = /^bytes=(\d{1,15})-(\d{1,15})$/.exec(header);
  const [first, last] = [Number(match?.[1]), Number(match?.[2])];
  if (!match || first > last)
    throw new S3Error("InvalidArgument", "The source's range is written as bytes=FIRST-LAST.");
  if (last >= sizeBytes) throw new S3Error("InvalidRange");
  return [first, last];
}

export async function copyPart(call: Call): Promise<void> {
  allowQuery(call, "partNumber", "uploadId");
  const number = partNumberOf(call);
  const upload = await uploadOf(call);
  const source = await findSource(call);
  const { blobs, pool } = call.gateway;
  const release = blobs.hold(source.segments);
  try {
    const [first, last] = sourceRange(call, source.sizeBytes);
    const bytes = blobs.read(source.segments, first, last);
    const body: Body = digested(bytes, last - first + 1, upload.checksumAlgorithm);
    const part = await storeBody(call, body, async ({ blob, sizeBytes }) => {
      const { md5, checksum } = body.result();
      const part = { number, blob, sizeBytes, md5: md5.toString("hex"), checksum };
      await blobs.remove(await commitPart(pool, call.bucket.id, upload, part));
      return part;
    });
    const named = part.checksum ? { [`Checksum${part.checksum.algorithm}`]: part.checksum.value } : {};
    const LastModified = new Date(call.gateway.now()).toISOString();
    sendXml(call, renderXml("CopyPartResult", { LastModified, ETag: `"${part.md5}"`, ...named }));
  } finally {
    await release();
  }
}
