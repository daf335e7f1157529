import { createHash } from "node:crypto";
import { z } from "zod";
import { readSmallBody } from "./body.ts";
import { findObject, type NewObject } from "./bucket-index.ts";
import { allowQuery, type Call, checkKey, headerOf, send, sendXml } from "./call.ts";
import {
  type Checksum,
  type ChecksumAlgorithm,
  checksumAlgorithms,
  checksumHeader,
  createChecksum,
} from "./checksums.ts";
import { keyWriter, parseLimit } from "./listing.ts";
import { algorithmAsked, checkQuota, describe, storeBody, tellVersion, writeCondition } from "./objects.ts";
import { S3Error } from "./s3-error.ts";
import {
  abortUpload,
  commitPart,
  completeUpload,
  createUpload,
  findUpload,
  listParts,
  listUploads,
  type Part,
  type Upload,
} from "./upload-index.ts";
import { parseXml, renderXml } from "./xml.ts";

const maxParts = 10_000;
const minPartBytes = 5 * 2 ** 20;
const maxObjectBytes = 5 * 2 ** 40;

export async function startUpload(call: Call): Promise<void> {
  allowQuery(call, "uploads");
  checkKey(call.key);
  const described = describe(call.request.headers);
  const checksumAlgorithm = algorithmAsked(call);
  const id = await createUpload(call.gateway.pool, call.bucket.id, {
    ...described,
    key: call.key,
    checksumAlgorithm,
  });
  call.request.resume();
  if (checksumAlgorithm) call.response.setHeader("x-amz-checksum-algorithm", checksumAlgorithm);
  const { name } = call.bucket;
  sendXml(call, renderXml("InitiateMultipartUploadResult", { Bucket: name, Key: call.key, UploadId: id }));
}

export const uploadOf = (call: Call) =>
  findUpload(call.gateway.pool, call.bucket.id, call.key, call.query.get("uploadId") ?? "");

export function partNumberOf(call: Call): number {
  const text = call.query.get("partNumber") ?? "";
  const number = Number(text);
  if (!/^\d{1,5}$/.test(text) || number < 1 || number > maxParts)
    throw new S3Error("InvalidArgument", `The part number must be from 1 to ${maxParts}.`);
  return number;
}

export async function uploadPart(call: Call): Promise<void> {
  allowQuery(call, "partNumber", "uploadId");
  const number = partNumberOf(call);
  const upload = await uploadOf(call);
  const body = call.readBody({ fallback: upload.checksumAlgorithm });
  checkQuota(call, body.sizeBytes);
  const { md5, checksum } = await storeBody(call, body, async ({ blob, sizeBytes }) => {
    const { md5, checksum } = body.result();
    const part = { number, blob, sizeBytes, md5: md5.toString("hex"), checksum };
    await call.gateway.blobs.remove(await commitPart(call.gateway.pool, call.bucket.id, upload, part));
    return part;
  });
  send(call, 200, {
    etag: `"${md5}"`,
    ...(checksum ? { [checksumHeader(checksum.algorithm)]: checksum.value } : {}),
  });
}

const Completion = z.object({
  CompleteMultipartUpload: z.object({
    Part: z
      .array(z.looseObject({ PartNumber: z.string().regex(/^ *\d{1,5} *$/), ETag: z.string() }))
      .min(1)
      .max(maxParts),
  }),
});

/** The parts that the client lists, as uploaded. */
async function chooseParts(call: Call, upload: Upload, document: string): Promise<Part[]> {
  const parsed = Completion.safeParse(parseXml(document));
  if (!parsed.success) throw new S3Error("MalformedXML", undefined, { cause: parsed.error });
  const present = new Map<number, Part>();
  for (const part of await listParts(call.gateway.pool, upload.id, 0, maxParts))
    present.set(part.number, part);
  const chosen: Part[] = [];
  for (const listed of parsed.data.CompleteMultipartUpload.Part) {
    const number = Number(listed.PartNumber);
    const part = present.get(number);
    if (chosen.length > 0 && number <= chosen.at(-1)!.number) throw new S3Error("InvalidPartOrder");
    if (part?.md5 !== listed.ETag.trim().replaceAll('"', "")) throw new S3Error("InvalidPart");
    for (const algorithm of checksumAlgorithms) {
      const wanted = listed[`Checksum${algorithm}`];
      const isOther = part.checksum?.algorithm === algorithm && part.checksum.value !== wanted;
      if (wanted !== undefined && isOther) throw new S3Error("InvalidPart", "A part's checksum differs.");
    }
    chosen.push(part);
  }
  if (chosen.slice(0, -1).some(({ sizeBytes }) => sizeBytes < minPartBytes))
    throw new S3Error("EntityTooSmall");
  return chosen;
}

/** Checksum over the parts' checksums, if every part has one. */
function composite(algorithm: ChecksumAlgorithm | null, parts: readonly Part[]): Checksum | null {
  if (!algorithm || algorithm === "CRC64NVME") return null;
  const hasher = createChecksum(algorithm);
  for (const { checksum } of parts) {
    if (checksum?.algorithm !== algorithm) return null;
    hasher.update(Buffer.from(checksum.value, "base64"));
  }
  return { algorithm, value: `${hasher.digest().toString("base64")}-${parts.length}` };
}

/** Compares the checksum over all content that the client may announce, by reading it back. */
async function checkWhole(call: Call, parts: readonly Part[], sizeBytes: number): Promise<Checksum | null> {
  const algorithm = checksumAlgorithms.find(
    (name) => headerOf(call.request, checksumHeader(name)) !== undefined,
  );
  if (!algorithm) return null;
  const wanted = headerOf(call.request, checksumHeader(algorithm))!;
  if (wanted.includes("-")) return null;
  const hasher = createChecksum(algorithm);
  for await (const chunk of call.gateway.blobs.read(parts, 0, sizeBytes - 1)) hasher.update(chunk);
  if (hasher.digest().toString("base64") !== wanted) throw new S3Error("BadDigest");
  return { algorithm, value: wanted };
}

export async function finishUpload(call: Call): Promise<void> {
  allowQuery(call, "uploadId");
  const condition = writeCondition(call);
  const document = await readSmallBody(call.readBody({ isDocument: true }), 4 << 20);
  const upload = await uploadOf(call);
  const parts = await chooseParts(call, upload, document);
  const sizeBytes = parts.reduce((sum, part) => sum + part.sizeBytes, 0);
  if (sizeBytes > maxObjectBytes) throw new S3Error("EntityTooLarge");
  const md5 = createHash("md5");
  for (const part of parts) md5.update(Buffer.from(part.md5, "hex"));
  const checksum = (await checkWhole(call, parts, sizeBytes)) ?? composite(upload.checksumAlgorithm, parts);
  const object: NewObject = {
    key: call.key,
    sizeBytes,
    etag: `${md5.digest("hex")}-${parts.length}`,
    headers: upload.headers,
    metadata: upload.metadata,
    checksum,
    tags: upload.tags,
    segments: parts.map((part) => ({ blob: part.blob, sizeBytes: part.sizeBytes })),
  };
  const { pool, blobs } = call.gateway;
  const written = await completeUpload(pool, call.bucket.id, upload.id, object, condition);
  await blobs.remove(written.blobs);
  tellVersion(call, written.versionId);
  const stored = await findObject(pool, call.bucket.id, call.key, written.versionId);
  if (stored) call.response.setHeader("last-modified", stored.modifiedAt.toUTCString());
  sendXml(
    call,
    renderXml("CompleteMultipartUploadResult", {
      Bucket: call.bucket.name,
      Key: call.key,
      ETag: `"${object.etag}"`,
      ...(checksum ? { [`Checksum${checksum.algorithm}`]: checksum.value } : {}),
    }),
  );
}

export async function cancelUpload(call: Call): Promise<void> {
  allowQuery(call, "uploadId");
  const id = call.query.get("uploadId") ?? "";
  await call.gateway.blobs.remove(await abortUpload(call.gateway.pool, call.bucket.id, call.key, id));
  send(call, 204, {});
}

export async function sendParts(call: Call): Promise<void> {
  allowQuery(call, "uploadId", "max-parts", "part-number-marker", "encoding-type");
  const upload = await uploadOf(call);
  const limit = parseLimit(call.query.get("max-parts"));
  const marker = call.query.get("part-number-marker") ?? "0";
  if (!/^\d{1,9}$/.test(marker)) throw new S3Error("InvalidArgument");
  const parts = await listParts(call.gateway.pool, upload.id, Number(marker), limit + 1);
  const isTruncated = parts.length > limit;
  const shown = parts.slice(0, limit);
  sendXml(
    call,
    renderXml("ListPartsResult", {
      Bucket: call.bucket.name,
      Key: keyWriter(call)(call.key),
      UploadId: upload.id,
      PartNumberMarker: Number(marker),
      NextPartNumberMarker: shown.at(-1)?.number ?? 0,
      MaxParts: limit,
      IsTruncated: isTruncated,
      StorageClass: "STANDARD",
      ChecksumAlgorithm: upload.checksumAlgorithm ?? undefined,
      Part: shown.map((part) => ({
        PartNumber: part.number,
        LastModified: part.modifiedAt.toISOString(),
        ETag: `"${part.md5}"`,
        Size: part.sizeBytes,
        ...(part.checksum ? { [`Checksum${part.checksum.algorithm}`]: part.checksum.value } : {}),
      })),
    }),
  );
}

export async function sendUploads(call: Call): Promise<void> {
  allowQuery(call, "uploads", "prefix", "key-marker", "upload-id-marker", "max-uploads", "encoding-type");
  const { query } = call;
  const limit = parseLimit(query.get("max-uploads"));
  const [prefix, afterKey] = [query.get("prefix") ?? "", query.get("key-marker") ?? ""];
  const afterId = query.get("upload-id-marker") ?? "";
  const uploads = await listUploads(call.gateway.pool, call.bucket.id, {
    prefix,
    afterKey,
    afterId,
    limit: limit + 1,
  });
  const isTruncated = uploads.length > limit;
  const shown = uploads.slice(0, limit);
  const last = shown.at(-1);
  const write = keyWriter(call);
  sendXml(
    call,
    renderXml("ListMultipartUploadsResult", {
      Bucket: call.bucket.name,
      KeyMarker: write(afterKey),
      UploadIdMarker: afterId,
      NextKeyMarker: isTruncated && last ? write(last.key) : undefined,
      NextUploadIdMarker: isTruncated ? last?.id : undefined,
      Prefix: write(prefix),
      EncodingType: query.get("encoding-type"),
      MaxUploads: limit,
      IsTruncated: isTruncated,
      Upload: shown.map(({ id, key, createdAt }) => ({
        Key: write(key),
        UploadId: id,
        StorageClass: "STANDARD",
        Initiated: createdAt.toISOString(),
      })),
    }),
  );
}
