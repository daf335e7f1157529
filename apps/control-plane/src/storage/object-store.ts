import { request as httpRequest, type IncomingMessage } from "node:http";
import type { Readable } from "node:stream";
import { text as textOf } from "node:stream/consumers";
import { PlatformError } from "@platform/contract";
import { Pool, type Dispatcher } from "undici";
import { z } from "zod";
import type { Platform } from "../platform.ts";

const StoreBucket = z.object({ bytes: z.number(), objects: z.number() });
const StoreSettings = StoreBucket.extend({
  versioning: z.enum(["Enabled", "Suspended"]).nullable(),
  corsOrigins: z.array(z.string()).nullable(),
  expireAfterDays: z.number().nullable(),
});
const KeyList = z.object({
  credentials: z.array(
    z.object({
      accessKeyId: z.string(),
      access: z.enum(["read", "write"]),
      actions: z.array(z.string()).nullable(),
      prefix: z.string(),
      createdAt: z.string(),
    }),
  ),
});
const SignedForm = z.object({
  url: z.string(),
  fields: z.record(z.string(), z.string()),
  expiresAt: z.string(),
});
const Listed = z.object({
  objects: z.array(
    z.object({
      key: z.string(),
      sizeBytes: z.number(),
      etag: z.string(),
      lastModified: z.string(),
      contentType: z.string().nullable(),
    }),
  ),
  nextMarker: z.string().nullable(),
});
const Credentials = z.object({ accessKeyId: z.string(), secretAccessKey: z.string() });
const Presigned = z.object({ url: z.string(), expiresAt: z.string() });
const Refusal = z.object({ code: z.string(), detail: z.string() });

export type Usage = z.output<typeof StoreBucket>;

const retryAfterMs = 2_000;
const away = (cause?: unknown) =>
  new PlatformError(
    "STORAGE_UNAVAILABLE",
    "Object storage does not answer now. Nothing is lost; retry in two seconds.",
    { retryAfterMs, cause },
  );

/** The object store said no; `code` is its own word for why. */
export class StoreRefusal extends Error {
  readonly code: string;
  constructor(code: string, detail: string) {
    super(detail);
    this.name = "StoreRefusal";
    this.code = code;
  }
}

interface Sent {
  readonly headers?: Record<string, string>;
  readonly body?: string;
  readonly signal?: AbortSignal;
}

const pools = new Map<string, Pool>();
function poolOf(url: string): Pool {
  let pool = pools.get(url);
  if (!pool) pools.set(url, (pool = new Pool(url, { connections: 32, connect: { timeout: 3_000 } })));
  return pool;
}

const answerMs = 20_000;
/** An upload or download may take long, but not stand still for this long, milliseconds. */
const idleMs = 120_000;

/**
 * @throws PlatformError STORAGE_UNAVAILABLE when it is away or fails inside
 * @throws StoreRefusal
 */
async function send(
  platform: Platform,
  method: Dispatcher.HttpMethod,
  path: string,
  sent: Sent = {},
): Promise<Dispatcher.ResponseData> {
  const { objectStore } = platform.settings;
  if (!objectStore) throw away();
  let answer: Dispatcher.ResponseData;
  try {
    answer = await poolOf(objectStore.url).request({
      method,
      path: `/internal/buckets/${path}`,
      headers: { ...sent.headers, authorization: `Bearer ${objectStore.token}` },
      body: sent.body ?? null,
      headersTimeout: answerMs,
      bodyTimeout: idleMs,
      ...(sent.signal ? { signal: sent.signal } : {}),
    });
  } catch (error) {
    throw away(error);
  }
  if (answer.statusCode < 400) return answer;
  throw refusalOf(platform, answer.statusCode, await answer.body.text().catch(() => ""));
}

function refusalOf(platform: Platform, status: number, text: string): Error {
  if (status === 401 || status >= 500) {
    // Its inner words are for our log: a client can do nothing with them.
    platform.log.warn({ status, answer: text.slice(0, 500) }, "the object store failed");
    return away();
  }
  const refusal = Refusal.safeParse(parseJson(text));
  return new StoreRefusal(
    refusal.success ? refusal.data.code : `HTTP_${status}`,
    refusal.success ? refusal.data.detail : "The object store refused.",
  );
}

/**
 * Sends a stream only once the store has agreed to take it: a refusal that crosses the upload would be
 * lost with the connection.
 */
async function upload(
  platform: Platform,
  path: string,
  content: Readable,
  headers: Record<string, string>,
): Promise<IncomingMessage> {
  const { objectStore } = platform.settings;
  if (!objectStore) throw away();
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    const request = httpRequest(`${objectStore.url}/internal/buckets/${path}`, {
      method: "PUT",
      agent: false,
      timeout: idleMs,
      headers: { ...headers, authorization: `Bearer ${objectStore.token}`, expect: "100-continue" },
    });
    const fail = (error?: Error) => {
      request.destroy();
      reject(away(error));
    };
    content.once("error", fail);
    request.on("continue", () => content.pipe(request));
    request.on("response", resolve);
    request.on("timeout", () => fail());
    request.on("error", fail);
  });
  if (answer.statusCode! >= 400)
    throw refusalOf(platform, answer.statusCode!, await textOf(answer).catch(() => ""));
  answer.resume();
  return answer;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null; // No JSON is no known refusal.
  }
}

async function json<T extends z.ZodType>(schema: T, answer: Dispatcher.ResponseData): Promise<z.output<T>> {
  try {
    return schema.parse(await answer.body.json());
  } catch (error) {
    throw away(error);
  }
}

const body = (value: unknown): Sent => ({
  body: JSON.stringify(value),
  headers: { "content-type": "application/json" },
});
const objectPath = (id: string, key: string) =>
  `${id}/objects/${key.split("/").map(encodeURIComponent).join("/")}`;

export type Settings = z.output<typeof StoreSettings>;

/** What is left out of the last three stays as it is. */
export interface WantedBucket {
  name: string;
  quotaBytes: number | null;
  public: boolean;
  versioning?: "Enabled" | "Suspended" | undefined;
  corsOrigins?: string[] | null | undefined;
  expireAfterDays?: number | null | undefined;
}

/** Creates or changes. @throws StoreRefusal BUCKET_NAME_TAKEN */
export async function putStoreBucket(
  platform: Platform,
  id: string,
  wanted: WantedBucket,
): Promise<Settings> {
  return json(StoreSettings, await send(platform, "PUT", id, body(wanted)));
}

/** @throws StoreRefusal BUCKET_NOT_FOUND */
export async function storeSettings(platform: Platform, id: string): Promise<Settings> {
  return json(StoreSettings, await send(platform, "GET", id));
}

/** Null only if the store answers that there is none. */
export async function storeUsage(platform: Platform, id: string): Promise<Usage | null> {
  try {
    return await json(StoreBucket, await send(platform, "GET", `${id}/usage`));
  } catch (error) {
    if (error instanceof StoreRefusal && error.code === "BUCKET_NOT_FOUND") return null;
    throw error;
  }
}

export async function deleteStoreBucket(platform: Platform, id: string): Promise<void> {
  await (await send(platform, "DELETE", id)).body.dump();
}

export async function listStoreObjects(
  platform: Platform,
  id: string,
  query: { prefix: string; limit: number; marker: string },
) {
  const text = new URLSearchParams({ ...query, limit: String(query.limit) }).toString();
  return json(Listed, await send(platform, "GET", `${id}/objects?${text}`));
}

/** @param content read only when the store takes it */
export async function putStoreObject(
  platform: Platform,
  id: string,
  key: string,
  content: Readable,
  headers: Record<string, string>,
): Promise<{ etag: string }> {
  const answer = await upload(platform, objectPath(id, key), content, headers);
  return { etag: String(answer.headers.etag ?? "").replaceAll('"', "") };
}

/** Null only if the store answers that there is no such object. */
export async function getStoreObject(
  platform: Platform,
  id: string,
  key: string,
  headers: Record<string, string> = {},
  signal?: AbortSignal,
): Promise<Dispatcher.ResponseData | null> {
  try {
    return await send(platform, "GET", objectPath(id, key), { headers, ...(signal ? { signal } : {}) });
  } catch (error) {
    if (error instanceof StoreRefusal && error.code === "NoSuchKey") return null;
    throw error;
  }
}

export async function deleteStoreObject(platform: Platform, id: string, key: string): Promise<void> {
  await (await send(platform, "DELETE", objectPath(id, key))).body.dump();
}

export async function createStoreCredentials(
  platform: Platform,
  id: string,
  bounds: { access: "read" | "write"; actions: string[] | null; prefix: string },
) {
  return json(Credentials, await send(platform, "POST", `${id}/credentials`, body(bounds)));
}

export async function listStoreCredentials(platform: Platform, id: string) {
  return (await json(KeyList, await send(platform, "GET", `${id}/credentials`))).credentials;
}

export async function deleteStoreCredentials(platform: Platform, id: string, accessKeyId: string) {
  await (await send(platform, "DELETE", `${id}/credentials/${encodeURIComponent(accessKeyId)}`)).body.dump();
}

export async function presignStoreObject(
  platform: Platform,
  id: string,
  wanted: {
    method: "GET" | "PUT";
    key: string;
    origin: string;
    expiresSeconds: number;
    contentType?: string;
  },
) {
  return json(Presigned, await send(platform, "POST", `${id}/presign`, body(wanted)));
}

export async function presignStorePost(
  platform: Platform,
  id: string,
  wanted: {
    key: string;
    origin: string;
    expiresSeconds: number;
    contentType?: string | undefined;
    minBytes: number;
    maxBytes: number;
    redirectTo?: string | undefined;
  },
) {
  return json(SignedForm, await send(platform, "POST", `${id}/presign-post`, body(wanted)));
}
