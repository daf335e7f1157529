import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Log } from "@platform/daemon";
import { z } from "zod";
import {
  type Bucket,
  deleteBucket,
  findBucket,
  putBucket,
  setDocument,
  setVersioning,
} from "./bucket-index.ts";
import { type Call, createBodyReader, type Gateway, send } from "./call.ts";
import { parseCors } from "./cors.ts";
import {
  actions,
  createCredential,
  deleteCredential,
  internalCredential,
  listCredentials,
} from "./credentials.ts";
import { applyLifecycle } from "./lifecycle.ts";
import { listPage, parseLimit } from "./listing.ts";
import { getObject, putObject, removeObject } from "./objects.ts";
import { parseRules } from "./lifecycle-rules.ts";
import { presign, presignPost } from "./presign.ts";
import { drain, isUnread } from "./s3.ts";
import { S3Error } from "./s3-error.ts";
import { parseTarget } from "./sigv4.ts";

const BucketRequest = z.strictObject({
  /** As in host names; `internal` is a path of this server. */
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$/)
    .refine((name) => name !== "internal"),
  quotaBytes: z.int().min(0).nullable().default(null),
  public: z.boolean().default(false),
  /** Left out: as it is. */
  versioning: z.enum(["Enabled", "Suspended"]).optional(),
  corsOrigins: z.array(z.string().min(1).max(255)).max(100).nullable().optional(),
  expireAfterDays: z.int().min(1).max(36_500).nullable().optional(),
});
const CredentialRequest = z.strictObject({
  access: z.enum(["read", "write"]),
  /** What the key may do, in place of what the access stands for. */
  actions: z.array(z.enum(actions)).min(1).nullable().default(null),
  /** Every key that it may touch or list begins so. */
  prefix: z.string().max(1024).default(""),
});

const PresignRequest = z.strictObject({
  method: z.enum(["GET", "PUT"]),
  key: z.string().min(1),
  /** Scheme and host that clients use, such as `https://<bucket>.s3.example.org`. */
  origin: z.url({ protocol: /^https?$/ }),
  expiresSeconds: z.int().min(1).max(604_800),
  contentType: z
    .string()
    .regex(/^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$/)
    .max(255)
    .optional(),
});

const PresignPostRequest = z.strictObject({
  key: z.string().min(1),
  origin: z.url({ protocol: /^https?$/ }),
  expiresSeconds: z.int().min(1).max(604_800),
  /** What the type of the file must begin with. */
  contentType: z.string().min(1).max(255).optional(),
  minBytes: z.int().min(0),
  maxBytes: z.int().min(0),
  redirectTo: z.url({ protocol: /^https?$/ }).optional(),
});

class AdminError extends Error {
  readonly status: number;
  readonly code: string;
  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const noBucket = (id: string) =>
  new AdminError(404, "BUCKET_NOT_FOUND", `There is no bucket ${id}. Create it with PUT first.`);

async function readJson<T extends z.ZodType>(request: IncomingMessage, schema: T): Promise<z.output<T>> {
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    sizeBytes += chunk.length;
    if (sizeBytes > 64 << 10) throw new AdminError(413, "BODY_TOO_LARGE", "The body is larger than 64 KiB.");
    chunks.push(chunk);
  }
  let value: unknown;
  try {
    value = JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch {
    throw new AdminError(400, "BODY_INVALID", "The body is no JSON.");
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const fields = parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
  throw new AdminError(400, "BODY_INVALID", fields.join("; "));
}

const render = (bucket: Bucket) => ({
  id: bucket.id,
  name: bucket.name,
  quotaBytes: bucket.quotaBytes,
  public: bucket.isPublic,
  bytes: bucket.usedBytes,
  objects: bucket.objectCount,
  createdAt: bucket.createdAt.toISOString(),
  ...describeSettings(bucket),
});

const sendJson = (response: ServerResponse, value: unknown, status = 200) =>
  send({ response }, status, { "content-type": "application/json" }, JSON.stringify(value));

interface AdminCall extends Pick<Call, "gateway" | "request" | "response" | "method" | "query"> {
  bucketId: string;
  mustContinue: boolean;
}

async function handleBucket(call: AdminCall): Promise<void> {
  const { gateway, request, response, bucketId } = call;
  if (call.method === "PUT") {
    const wanted = await readJson(request, BucketRequest);
    const { name, quotaBytes, public: isPublic } = wanted;
    const bucket = await putBucket(gateway.pool, { id: bucketId, name, quotaBytes, isPublic });
    if (!bucket) throw new AdminError(409, "BUCKET_NAME_TAKEN", `The name ${name} is taken. Choose another.`);
    await applySettings(gateway, bucketId, wanted);
    sendJson(response, render(await requireBucket(call)));
  } else if (call.method === "DELETE") {
    await gateway.blobs.remove(await deleteBucket(gateway.pool, bucketId));
    send({ response }, 204, {});
  } else sendJson(response, render(await requireBucket(call)));
}

const settingsRuleId = "settings";

/** What the control plane sets in one word each; rules that clients set over the protocol stay as they are. */
async function applySettings(
  gateway: Gateway,
  bucketId: string,
  { versioning, corsOrigins, expireAfterDays }: z.output<typeof BucketRequest>,
): Promise<void> {
  if (versioning) await setVersioning(gateway.pool, bucketId, versioning);
  if (corsOrigins !== undefined) {
    const rule = {
      AllowedOrigin: corsOrigins,
      AllowedMethod: ["GET", "HEAD", "PUT", "POST"],
      AllowedHeader: ["*"],
      ExposeHeader: ["ETag"],
      MaxAgeSeconds: 600,
    };
    await setDocument(gateway.pool, bucketId, "cors", corsOrigins?.length ? [rule] : null);
  }
  if (expireAfterDays === undefined) return;
  const bucket = await findBucket(gateway.pool, bucketId);
  const others = parseRules(bucket?.documents.lifecycle).filter(({ ID }) => ID !== settingsRuleId);
  const own = { ID: settingsRuleId, Status: "Enabled", Filter: {}, Expiration: { Days: expireAfterDays } };
  const rules = expireAfterDays === null ? others : [...others, own];
  await setDocument(gateway.pool, bucketId, "lifecycle", rules.length > 0 ? rules : null);
}

/** The settings that are told by one word each. */
function describeSettings({ versioning, documents }: Bucket) {
  const [cors] = parseCors(documents.cors);
  const expiry = parseRules(documents.lifecycle).find(({ ID }) => ID === settingsRuleId);
  return {
    versioning: versioning === "" ? null : versioning,
    corsOrigins: cors?.AllowedOrigin ?? null,
    expireAfterDays: expiry?.Expiration?.Days ?? null,
  };
}

async function requireBucket({ gateway, bucketId }: AdminCall): Promise<Bucket> {
  const bucket = await findBucket(gateway.pool, bucketId);
  if (!bucket) throw noBucket(bucketId);
  return bucket;
}

async function handleCredentials(call: AdminCall, accessKeyId: string): Promise<void> {
  const { gateway, request, response, bucketId, method } = call;
  await requireBucket(call);
  if (method === "DELETE" && accessKeyId !== "") {
    await deleteCredential(gateway.pool, bucketId, accessKeyId);
    send({ response }, 204, {});
  } else if (method === "GET" && accessKeyId === "") {
    sendJson(response, { credentials: await listCredentials(gateway.pool, bucketId) });
  } else if (method === "POST" && accessKeyId === "") {
    const bounds = await readJson(request, CredentialRequest);
    const created = await createCredential(gateway.pool, gateway.sealer, bucketId, bounds);
    sendJson(response, { accessKeyId: created.accessKeyId, secretAccessKey: created.secretAccessKey }, 201);
  } else throw new AdminError(405, "METHOD_NOT_ALLOWED", "Use GET, POST, or DELETE with a key id.");
}

async function handlePresign(call: AdminCall): Promise<void> {
  const { gateway, bucketId } = call;
  const bucket = await requireBucket(call);
  if (call.method !== "POST") throw new AdminError(405, "METHOD_NOT_ALLOWED", "Use POST.");
  const { origin, ...wanted } = await readJson(call.request, PresignRequest);
  const credential = await internalCredential(gateway.pool, gateway.sealer, bucketId);
  const now = gateway.now();
  const place = { origin: new URL(origin), bucketName: bucket.name, region: gateway.region };
  const url = presign({ ...wanted, ...place, credential, now });
  const expiresAt = new Date(now + wanted.expiresSeconds * 1000).toISOString();
  sendJson(call.response, { url, expiresAt });
}

async function handlePresignPost(call: AdminCall): Promise<void> {
  const { gateway, bucketId } = call;
  const bucket = await requireBucket(call);
  if (call.method !== "POST") throw new AdminError(405, "METHOD_NOT_ALLOWED", "Use POST.");
  const { origin, ...wanted } = await readJson(call.request, PresignPostRequest);
  const credential = await internalCredential(gateway.pool, gateway.sealer, bucketId);
  const place = { origin: new URL(origin), bucketName: bucket.name, region: gateway.region };
  sendJson(call.response, presignPost({ ...wanted, ...place, credential, now: gateway.now() }));
}

async function handleList(call: AdminCall): Promise<void> {
  const bucket = await requireBucket(call);
  const limit = Math.max(1, parseLimit(call.query.get("limit")));
  const page = await listPage(
    { gateway: call.gateway, bucket },
    { prefix: call.query.get("prefix") ?? "", delimiter: "", after: call.query.get("marker") ?? "", limit },
  );
  const objects = page.objects.map(({ modifiedAt, ...object }) => ({
    ...object,
    lastModified: modifiedAt.toISOString(),
  }));
  sendJson(call.response, { objects, nextMarker: page.next });
}

/** Objects take the path of the protocol itself, with everything allowed and nothing signed. */
async function handleObject(call: AdminCall, key: string): Promise<void> {
  const { gateway, request, response, method } = call;
  const bucket = await requireBucket(call);
  const authenticated = { credential: null, signature: null, payload: "UNSIGNED-PAYLOAD" };
  const readBody = createBodyReader(request, response, authenticated, call.mustContinue);
  const handlers = { PUT: putObject, GET: getObject, HEAD: getObject, DELETE: removeObject };
  const handler = handlers[method as keyof typeof handlers];
  if (!handler) throw new AdminError(405, "METHOD_NOT_ALLOWED", "Use PUT, GET, HEAD or DELETE.");
  const query = new Map<string, string>();
  await handler({
    gateway,
    request,
    response,
    requestId: "",
    method,
    bucket,
    key,
    query,
    credential: null,
    readBody,
  });
}

async function route(call: AdminCall, path: string): Promise<void> {
  const [, , buckets, bucketId, part, ...rest] = path.split("/");
  if (buckets !== "buckets" || !bucketId) throw new AdminError(404, "NOT_FOUND", "There is nothing here.");
  const inBucket = { ...call, bucketId };
  if (part === undefined) return handleBucket(inBucket);
  if (part === "credentials") return handleCredentials(inBucket, rest.join("/"));
  if (part === "presign") return handlePresign(inBucket);
  if (part === "presign-post") return handlePresignPost(inBucket);
  if (part === "usage") {
    const { bytes, objects } = render(await requireBucket(inBucket));
    return sendJson(call.response, { bytes, objects });
  }
  if (part !== "objects") throw new AdminError(404, "NOT_FOUND", "There is nothing here.");
  return rest.length === 0 ? handleList(inBucket) : handleObject(inBucket, rest.join("/"));
}

const digest = (text: string) => createHash("sha256").update(text).digest();

/** Answers one request of the control plane; never throws. */
export async function handleAdmin(
  gateway: Gateway,
  options: { token: string; log: Log },
  request: IncomingMessage,
  response: ServerResponse,
  mustContinue: boolean,
): Promise<void> {
  try {
    const sent = request.headers.authorization ?? "";
    if (!timingSafeEqual(digest(sent), digest(`Bearer ${options.token}`)))
      throw new AdminError(401, "UNAUTHORIZED", "Send the internal token as bearer.");
    const { path, query } = parseTarget(request.url ?? "/");
    const method = request.method ?? "";
    if (path === "/internal/health") {
      await gateway.pool.query("select 1");
      sendJson(response, { ok: true });
      return;
    }
    if (path === "/internal/lifecycle" && method === "POST") {
      sendJson(response, { removed: await applyLifecycle(gateway, gateway.now()) });
      return;
    }
    if (mustContinue && !/^\/internal\/buckets\/[^/]+\/objects\//.test(path)) response.writeContinue();
    await route(
      { gateway, request, response, method, query: new Map(query), bucketId: "", mustContinue },
      path,
    );
  } catch (error) {
    if (response.headersSent || response.destroyed || request.errored) {
      response.destroy();
      return;
    }
    const isKnown = error instanceof S3Error || error instanceof AdminError;
    if (!isKnown) options.log.error({ err: error }, "request failed");
    const problem = isKnown
      ? { code: error.code, detail: error.message }
      : { code: "INTERNAL", detail: "Something failed on this side. Retry." };
    if (isUnread(request)) response.setHeader("connection", "close");
    sendJson(response, problem, isKnown ? error.status : 500);
  }
  drain(request);
}
