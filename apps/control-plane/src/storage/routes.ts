import { Readable } from "node:stream";
import { allows, notFound, PlatformError, storageRoutes as r } from "@platform/contract";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { ownedBy, page, publicUrl, storageHostname, tenantById } from "../tenants/index.ts";
import { createBucket, deleteBucket, updateBucket, usageOf } from "./lifecycle.ts";
import { checkKey, keyOf } from "./object-key.ts";
import {
  createStoreCredentials,
  deleteStoreCredentials,
  deleteStoreObject,
  getStoreObject,
  listStoreCredentials,
  listStoreObjects,
  presignStoreObject,
  presignStorePost,
  putStoreObject,
  StoreRefusal,
  storeSettings,
} from "./object-store.ts";
import { bucketView, ownBucket, settingsView, type BucketRow } from "./store.ts";

/** What every client may be told to sign for; the store accepts any. */
const signingRegion = "us-east-1";
const standardExpirySeconds = { method: 3600, operation: 300 };
/** Most bytes of an upload that does not say how long it is. */
const unmeasuredBytes = 64 * 1024 * 1024;
const passedOn = [
  "content-type",
  "content-length",
  "etag",
  "last-modified",
  "content-range",
  "accept-ranges",
];
const uploaded = [
  "content-type",
  "content-length",
  "cache-control",
  "content-disposition",
  "content-encoding",
];

/** The store's words as the contract's. */
function asProblem(error: unknown, row: BucketRow, key: string): unknown {
  if (!(error instanceof StoreRefusal)) return error;
  if (error.code === "QuotaExceeded")
    return new PlatformError(
      "QUOTA_EXCEEDED",
      `The quota of bucket ${row.name} (${row.quota_bytes} bytes) is used up. Delete objects, or use a bucket with a larger one.`,
      { details: { quota_bytes: row.quota_bytes === null ? null : Number(row.quota_bytes) }, cause: error },
    );
  if (error.code === "NoSuchBucket" || error.code === "BUCKET_NOT_FOUND")
    return notFound(`Bucket ${row.name}`);
  if (error.code === "KeyTooLongError")
    return new PlatformError("INVALID_PATH", "The object key is longer than 1024 bytes. Use a shorter one.");
  return new PlatformError("VALIDATION_FAILED", `${key || row.name}: ${error.message}`, { cause: error });
}

function pick(headers: Record<string, unknown>, names: readonly string[]): Record<string, string> {
  const found = names.flatMap((name) =>
    typeof headers[name] === "string" ? [[name, headers[name]] as const] : [],
  );
  return Object.fromEntries(found);
}

/** The store wants to know the length first, so a body without one is taken in whole. */
async function bodyOf(call: Call): Promise<{ content: Readable; length: number }> {
  const { body, headers } = call.request;
  if (!(body instanceof Readable)) return { content: Readable.from([]), length: 0 };
  if (headers["content-length"] !== undefined)
    return { content: body, length: Number(headers["content-length"]) };
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > unmeasuredBytes)
      throw new PlatformError(
        "PAYLOAD_TOO_LARGE",
        "A body without Content-Length may have 64 MiB. Send the header, or use a presigned URL.",
      );
    chunks.push(chunk);
  }
  return { content: Readable.from(chunks), length };
}

async function endpointOf(platform: Platform, row: BucketRow): Promise<string> {
  const tenant = (await tenantById(platform.pool, row.tenant_id))!;
  return publicUrl(platform.settings, storageHostname(tenant));
}

function objectHandlers(platform: Platform, own: (call: Call) => Promise<BucketRow>): Handler[] {
  return [
    handler(r.objects, async (call) => {
      const row = await own(call as Call);
      const { prefix, max_keys, limit, marker, cursor } = call.query;
      const listed = await listStoreObjects(platform, row.id, {
        prefix,
        limit: max_keys ?? limit ?? 1000,
        marker: marker ?? cursor ?? "",
      });
      const data = listed.objects.map((one) => ({
        key: one.key,
        size: one.sizeBytes,
        size_bytes: one.sizeBytes,
        content_type: one.contentType ?? "application/octet-stream",
        etag: one.etag,
        last_modified: one.lastModified,
      }));
      const next = listed.nextMarker;
      return { data, cursor: next, ...(next === null ? {} : { next_cursor: next }) };
    }),
    handler(r.putObject, async (call) => {
      const row = await own(call as Call);
      const key = keyOf(call.request.url);
      const headers = pick(call.request.headers, uploaded);
      const { content, length } = await bodyOf(call as Call);
      headers["content-length"] = String(length);
      // The store refuses by the same rule, but its answer may be lost while the body still flows.
      if (row.quota_bytes !== null && length > Number(row.quota_bytes) - (await usageOf(platform, row)).bytes)
        throw asProblem(new StoreRefusal("QuotaExceeded", "over the quota"), row, key);
      const stored = await putStoreObject(platform, row.id, key, content, headers).catch((error: unknown) => {
        throw asProblem(error, row, key);
      });
      const view = {
        key,
        bucket_id: row.id,
        etag: stored.etag,
        size: length,
        size_bytes: length,
        content_type: headers["content-type"] ?? "application/octet-stream",
      };
      return call.reply
        .header("content-type", "application/json; charset=utf-8")
        .send(JSON.stringify({ data: view }));
    }),
    handler(r.getObject, async (call) => {
      const row = await own(call as Call);
      const key = keyOf(call.request.url);
      const asked = pick(call.request.headers, ["range", "if-none-match", "if-match"]);
      const found = await getStoreObject(platform, row.id, key, asked, call.signal).catch(
        (error: unknown) => {
          throw asProblem(error, row, key);
        },
      );
      if (!found) throw notFound(`Object ${key}`);
      return call.reply
        .status(found.statusCode)
        .headers({ ...pick(found.headers, passedOn), "x-content-type-options": "nosniff" })
        .send(found.body);
    }),
    handler(r.deleteObject, async (call) => {
      const row = await own(call as Call);
      const key = keyOf(call.request.url);
      await deleteStoreObject(platform, row.id, key).catch((error: unknown) => {
        throw asProblem(error, row, key);
      });
      return { id: key, key, deleted: true };
    }),
  ];
}

function accessHandlers(platform: Platform, own: (call: Call) => Promise<BucketRow>): Handler[] {
  return [
    handler(r.presign, async (call) => {
      const row = await own(call as Call);
      const { key, method, operation, expires_in, expires_in_sec, content_type } = call.body;
      const verb = method ?? (operation === "put" ? "PUT" : "GET");
      if (verb === "PUT" && !allows(call.caller.scopes, "storage:write"))
        throw new PlatformError(
          "FORBIDDEN",
          "A URL to upload with needs the scope storage:write. Use a key that has it.",
          { details: { required_scope: "storage:write" } },
        );
      const isOlderForm = operation !== undefined || expires_in_sec !== undefined;
      const standard = standardExpirySeconds[isOlderForm && method === undefined ? "operation" : "method"];
      const signed = await presignStoreObject(platform, row.id, {
        method: verb,
        key: checkKey(key),
        origin: await endpointOf(platform, row),
        expiresSeconds: expires_in ?? expires_in_sec ?? standard,
        ...(verb === "PUT" && content_type ? { contentType: content_type } : {}),
      });
      return {
        url: signed.url,
        presigned_url: signed.url,
        method: verb,
        key,
        headers: verb === "PUT" && content_type ? { "content-type": content_type } : {},
        expires_at: signed.expiresAt,
      };
    }),
    handler(r.credentials, async (call) => {
      const row = await own(call as Call);
      const access =
        call.body.access.startsWith("read") && !call.body.access.includes("write") ? "read" : "write";
      const { actions = null, prefix = "" } = call.body;
      const made = await createStoreCredentials(platform, row.id, { access, actions, prefix });
      return {
        access_key_id: made.accessKeyId,
        secret_access_key: made.secretAccessKey,
        endpoint: await endpointOf(platform, row),
        bucket: row.store_name,
        region: signingRegion,
        name: call.body.name ?? null,
        access,
        actions,
        prefix,
        force_path_style: true,
      };
    }),
    handler(r.listCredentials, async (call) => {
      const row = await own(call as Call);
      const keys = await listStoreCredentials(platform, row.id);
      const data = keys.map(({ accessKeyId, access, actions, prefix, createdAt }) => ({
        id: accessKeyId,
        access_key_id: accessKeyId,
        access,
        actions,
        prefix,
        created_at: createdAt,
      }));
      return { data };
    }),
    handler(r.presignPost, async (call) => {
      const row = await own(call as Call);
      const { key, expires_in, content_type, min_bytes, max_bytes, redirect_to } = call.body;
      const signed = await presignStorePost(platform, row.id, {
        key: checkKey(key),
        origin: await endpointOf(platform, row),
        expiresSeconds: expires_in,
        contentType: content_type,
        minBytes: min_bytes,
        maxBytes: max_bytes,
        redirectTo: redirect_to,
      });
      return { url: signed.url, method: "POST", fields: signed.fields, expires_at: signed.expiresAt };
    }),
    handler(r.revokeCredentials, async (call) => {
      const row = await own(call as Call);
      await deleteStoreCredentials(platform, row.id, call.params["key"]!);
      return { id: call.params["key"], deleted: true };
    }),
  ];
}

export function storageHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const own = (call: Call) => ownBucket(pool, call.caller, call.params["id"]!);
  return [
    handler(r.list, async ({ caller, query }) => {
      const conditions = ownedBy(caller, query).raw("state = 'ready'");
      const { rows, next_cursor } = await page<BucketRow>(pool, "buckets", conditions, query);
      const data = await Promise.all(rows.map(async (row) => bucketView(row, await usageOf(platform, row))));
      return { data, ...(next_cursor ? { next_cursor } : {}) };
    }),
    handler(r.create, async (call) => {
      const { row, usage } = await createBucket(platform, call as unknown as Call, call.body);
      return bucketView(row, usage);
    }),
    handler(r.get, async (call) => {
      const row = await own(call as Call);
      const usage = await usageOf(platform, row);
      return { ...bucketView(row, usage), ...settingsView(await storeSettings(platform, row.id)) };
    }),
    handler(r.update, async (call) => {
      const { row, settings } = await updateBucket(platform, await own(call as Call), call.body);
      return { ...bucketView(row, settings), ...settingsView(settings) };
    }),
    handler(r.remove, async (call) => {
      const row = await own(call as Call);
      await deleteBucket(platform, row, call.query.force);
      return { id: row.id, deleted: true };
    }),
    ...objectHandlers(platform, own),
    ...accessHandlers(platform, own),
  ];
}
