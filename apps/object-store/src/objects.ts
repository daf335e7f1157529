import { pipeline } from "node:stream/promises";
import type { IncomingHttpHeaders } from "node:http";
import { Readable } from "node:stream";
import type { Segment } from "./blobs.ts";
import type { Body } from "./body.ts";
import {
  findObject,
  type NewObject,
  type StoredHeaders,
  type StoredObject,
  type Tags,
  type WriteCondition,
} from "./bucket-index.ts";
import { allowQuery, type Call, checkKey, headerOf, send } from "./call.ts";
import { type Checksum, checksumAlgorithms, type ChecksumAlgorithm, checksumHeader } from "./checksums.ts";
import { notModified, parseRange } from "./conditions.ts";
import { S3Error } from "./s3-error.ts";
import { parseTagHeader } from "./tag-set.ts";
import { commitObject, deleteObject } from "./versions.ts";

const storedNames = ["content-type", "cache-control", "content-disposition", "content-language", "expires"];
const refusedHeaders =
  /^x-amz-(server-side-encryption|object-lock|grant|website|copy-source-server-side|write-offset)/;

export interface Described {
  headers: StoredHeaders;
  metadata: StoredHeaders;
  tags: Tags;
}

/**
 * @param sent headers of a request or fields of a form, names in lower case
 * @throws S3Error NotImplemented for one that asks for what this server does not do
 */
export function describe(sent: IncomingHttpHeaders): Described {
  const headers: StoredHeaders = { "content-type": "binary/octet-stream" };
  const metadata: StoredHeaders = {};
  const valueOf = (name: string) => (typeof sent[name] === "string" ? sent[name] : undefined);
  let metadataBytes = 0;
  for (const [name, value] of Object.entries(sent)) {
    if (typeof value !== "string") continue;
    if (refusedHeaders.test(name)) throw new S3Error("NotImplemented", `${name} is not implemented.`);
    if (storedNames.includes(name) && value !== "") headers[name] = value;
    if (!name.startsWith("x-amz-meta-")) continue;
    metadata[name] = value;
    metadataBytes += name.length - "x-amz-meta-".length + value.length;
  }
  const acl = valueOf("x-amz-acl");
  if (acl !== undefined && acl !== "private" && acl !== "bucket-owner-full-control")
    throw new S3Error("NotImplemented", "Access lists are not implemented; make the bucket public instead.");
  const storage = valueOf("x-amz-storage-class");
  if (storage !== undefined && storage !== "STANDARD")
    throw new S3Error("NotImplemented", `${storage} is not implemented.`);
  if (metadataBytes > 2048) throw new S3Error("InvalidArgument", "The metadata is larger than 2 KiB.");
  // The framing of the upload is not part of the object.
  const encoding = (valueOf("content-encoding") ?? "")
    .split(",")
    .map((item) => item.trim())
    .filter((item) => item !== "" && item !== "aws-chunked");
  if (encoding.length > 0) headers["content-encoding"] = encoding.join(", ");
  return { headers, metadata, tags: parseTagHeader(valueOf("x-amz-tagging")) };
}

/** A bucket that never kept versions does not speak of them. */
export function tellVersion(call: Pick<Call, "bucket" | "response">, versionId: string | null): void {
  if (call.bucket.versioning !== "" && versionId !== null)
    call.response.setHeader("x-amz-version-id", versionId);
}

/** Refuses early what the quota cannot hold; the commit decides. */
export function checkQuota(call: Pick<Call, "bucket">, sizeBytes: number): void {
  const { quotaBytes, usedBytes } = call.bucket;
  if (quotaBytes !== null && sizeBytes > quotaBytes - usedBytes) throw new S3Error("QuotaExceeded");
}

/** Stores a body as a blob and has `commit` make it visible; a refused commit leaves nothing. */
export async function storeBody<T>(
  call: Pick<Call, "gateway">,
  body: Pick<Body, "content" | "check">,
  commit: (segment: Segment) => Promise<T>,
): Promise<T> {
  const segment = await call.gateway.blobs.write(body.content, () => body.check());
  return commitSegment(call, segment, commit);
}

export async function commitSegment<T>(
  call: Pick<Call, "gateway">,
  segment: Segment,
  commit: (segment: Segment) => Promise<T>,
): Promise<T> {
  try {
    return await commit(segment);
  } catch (error) {
    // Only a refusal is certain not to have been committed; the sweep removes the rest.
    if (error instanceof S3Error) await call.gateway.blobs.remove([segment.blob]);
    throw error;
  }
}

export function writeCondition(call: Call): WriteCondition {
  const ifNoneMatch = headerOf(call.request, "if-none-match");
  const ifMatch = headerOf(call.request, "if-match")?.replaceAll('"', "");
  if (ifNoneMatch !== undefined && ifNoneMatch !== "*")
    throw new S3Error("NotImplemented", "If-None-Match on a write takes * only.");
  return { ifNoneMatch, ifMatch };
}

export const checksumHeaders = (checksum: Checksum | null): Record<string, string> =>
  checksum
    ? {
        [checksumHeader(checksum.algorithm)]: checksum.value,
        "x-amz-checksum-type": checksum.value.includes("-") ? "COMPOSITE" : "FULL_OBJECT",
      }
    : {};

export function algorithmAsked(call: Call): ChecksumAlgorithm | null {
  const asked =
    headerOf(call.request, "x-amz-sdk-checksum-algorithm") ??
    headerOf(call.request, "x-amz-checksum-algorithm");
  if (asked === undefined) return null;
  const found = checksumAlgorithms.find((algorithm) => algorithm === asked.toUpperCase());
  if (!found) throw new S3Error("InvalidRequest", `The checksum algorithm ${asked} is not known.`);
  return found;
}

export async function putObject(call: Call): Promise<void> {
  allowQuery(call);
  checkKey(call.key);
  const described = describe(call.request.headers);
  const condition = writeCondition(call);
  const body = call.readBody({ fallback: algorithmAsked(call) });
  checkQuota(call, body.sizeBytes);
  const { etag, checksum } = await storeBody(call, body, async (segment) => {
    const { md5, checksum } = body.result();
    const object: NewObject = {
      ...described,
      key: call.key,
      sizeBytes: segment.sizeBytes,
      etag: md5.toString("hex"),
      checksum,
      segments: [segment],
    };
    const written = await commitObject(call.gateway.pool, call.bucket.id, object, condition);
    await call.gateway.blobs.remove(written.blobs);
    tellVersion(call, written.versionId);
    return object;
  });
  send(call, 200, { etag: `"${etag}"`, ...checksumHeaders(checksum) });
}

const overrides = [
  "response-content-type",
  "response-content-language",
  "response-expires",
  "response-cache-control",
  "response-content-disposition",
  "response-content-encoding",
];

function objectHeaders(call: Call, object: StoredObject, isWhole: boolean): Record<string, string | number> {
  const headers: Record<string, string | number> = {
    ...object.headers,
    ...object.metadata,
    etag: `"${object.etag}"`,
    "last-modified": object.modifiedAt.toUTCString(),
    "accept-ranges": "bytes",
  };
  const tagCount = Object.keys(object.tags).length;
  if (tagCount > 0 && call.credential) headers["x-amz-tagging-count"] = tagCount;
  for (const name of overrides) {
    const value = call.query.get(name);
    if (value === undefined) continue;
    if (!call.credential)
      throw new S3Error("InvalidRequest", "Only signed requests may choose response headers.");
    if (/[^\x20-\x7e\x80-\xff]/.test(value)) throw new S3Error("InvalidArgument");
    headers[name.slice("response-".length)] = value;
  }
  if (isWhole && headerOf(call.request, "x-amz-checksum-mode")?.toUpperCase() === "ENABLED")
    Object.assign(headers, checksumHeaders(object.checksum));
  return headers;
}

/**
 * What the key names, or the version that the query asks for.
 * @throws S3Error NoSuchKey, NoSuchVersion, or MethodNotAllowed for the mark of a deletion by its id
 */
export async function requireObject(call: Call): Promise<StoredObject> {
  const versionId = call.query.get("versionId");
  const object = await findObject(call.gateway.pool, call.bucket.id, call.key, versionId);
  if (!object) throw new S3Error(versionId === undefined ? "NoSuchKey" : "NoSuchVersion");
  tellVersion(call, object.versionId);
  if (!object.isDeleteMarker) return object;
  call.response.setHeader("x-amz-delete-marker", "true");
  throw new S3Error(versionId === undefined ? "NoSuchKey" : "MethodNotAllowed");
}

/** Finds the object and keeps its blobs on disk until released. */
async function findHeld(call: Call): Promise<{ object: StoredObject; release: () => Promise<void> }> {
  for (let attempt = 0; attempt < 5; attempt++) {
    const object = await requireObject(call);
    const release = call.gateway.blobs.hold(object.segments);
    const [first] = object.segments;
    if (!first || (await call.gateway.blobs.exists(first))) return { object, release };
    // Replaced between the look-up and the hold: the next look-up finds what replaced it.
    await release();
  }
  throw new Error(`content of an object in bucket ${call.bucket.id} is missing on disk`);
}

export async function getObject(call: Call): Promise<void> {
  allowQuery(call, "versionId", ...overrides);
  checkKey(call.key);
  const { object, release } = await findHeld(call);
  try {
    if (notModified(call.request, object)) {
      const { etag } = object;
      call.response.writeHead(304, { etag: `"${etag}"`, "last-modified": object.modifiedAt.toUTCString() });
      call.response.end();
      return;
    }
    const range = parseRange(headerOf(call.request, "range"), object.sizeBytes);
    const [first, last] = range ?? [0, object.sizeBytes - 1];
    const headers = objectHeaders(call, object, range === null);
    headers["content-length"] = last - first + 1;
    if (range) headers["content-range"] = `bytes ${first}-${last}/${object.sizeBytes}`;
    call.response.writeHead(range ? 206 : 200, headers);
    if (call.method === "HEAD" || last < first) call.response.end();
    else
      await pipeline(
        Readable.from(call.gateway.blobs.read(object.segments, first, last), { objectMode: false }),
        call.response,
      );
  } finally {
    await release();
  }
}

export async function removeObject(call: Call): Promise<void> {
  allowQuery(call, "versionId");
  checkKey(call.key);
  const versionId = call.query.get("versionId");
  const deleted = await deleteObject(call.gateway.pool, call.bucket.id, call.key, versionId);
  await call.gateway.blobs.remove(deleted.blobs);
  tellVersion(call, deleted.versionId);
  if (deleted.isDeleteMarker) call.response.setHeader("x-amz-delete-marker", "true");
  send(call, 204, {});
}
