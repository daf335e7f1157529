import { z } from "zod";
import { External, ListQuery, Metadata, NoBody, Placement } from "./fields.ts";
import { defineRoute } from "./route.ts";

const BucketName = z
  .string()
  .regex(
    /^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$/,
    "3 to 63 lower case letters, digits and inner hyphens: the name is part of host names",
  )
  .refine((name) => name !== "internal", "is reserved");

export const CreateBucket = z
  .object({
    name: BucketName,
    region: z.string().min(1).max(64).optional(),
    visibility: z.enum(["private", "public"]).optional(),
    public: z.boolean().optional().describe("Same as visibility"),
    quota_bytes: z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER).optional(),
    metadata: Metadata.default({}),
  })
  .extend(External.shape)
  .extend(Placement.shape);

export const Bucket = z.looseObject({
  id: z.string(),
  tenant_id: z.string(),
  name: z.string(),
  region: z.string(),
  visibility: z.enum(["private", "public"]),
  public: z.boolean(),
  quota_bytes: z.int().nullable(),
  used_bytes: z.int().describe("Measured by the object store at this call"),
  size_bytes: z.int(),
  object_count: z.int(),
});

export const StoredObject = z.looseObject({
  key: z.string(),
  size: z.int(),
  size_bytes: z.int(),
  content_type: z.string(),
  etag: z.string(),
  last_modified: z.string(),
});

const optionalCount = z.coerce.number().int().min(1).max(1000).optional().catch(undefined);
const ObjectsQuery = z.looseObject({
  prefix: z.string().max(1024).default(""),
  max_keys: optionalCount,
  limit: optionalCount,
  marker: z.string().max(1024).optional(),
  cursor: z.string().max(1024).optional(),
});

const weekSeconds = 604_800;
export const PresignPost = z.object({
  key: z.string().min(1).max(1024).describe("May end in ${filename}, which the browser's file name replaces"),
  expires_in: z.coerce.number().int().min(1).max(weekSeconds).default(3600).describe("Seconds"),
  content_type: z
    .string()
    .min(1)
    .max(255)
    .optional()
    .describe("A type, or the beginning of one such as image/"),
  min_bytes: z.coerce.number().int().min(0).default(0),
  max_bytes: z.coerce
    .number()
    .int()
    .min(0)
    .max(5 * 2 ** 30)
    .default(100 * 2 ** 20),
  redirect_to: z.url({ protocol: /^https?$/ }).optional(),
});

export const Presign = z.object({
  key: z.string().min(1).max(1024),
  method: z
    .string()
    .transform((text) => text.toUpperCase())
    .pipe(z.enum(["GET", "PUT"]))
    .optional(),
  operation: z
    .string()
    .transform((text) => text.toLowerCase())
    .pipe(z.enum(["get", "put"]))
    .optional(),
  expires_in: z.coerce.number().int().min(1).max(weekSeconds).optional().describe("Seconds"),
  expires_in_sec: z.coerce.number().int().min(1).max(weekSeconds).optional(),
  content_type: z
    .string()
    .regex(/^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$/)
    .max(255)
    .optional()
    .describe("PUT only: the upload must then carry it"),
});

const Origin = z
  .string()
  .regex(/^(\*|https?:\/\/[^\s/]+)$/, "must be an origin such as https://app.example.com, or *");

export const UpdateBucket = z.object({
  visibility: z.enum(["private", "public"]).optional(),
  public: z.boolean().optional().describe("Same as visibility"),
  quota_bytes: z.coerce
    .number()
    .int()
    .min(-1)
    .max(Number.MAX_SAFE_INTEGER)
    .optional()
    .describe("-1: no limit"),
  versioning: z.enum(["enabled", "suspended"]).optional().describe("Suspended keeps the versions there are"),
  cors_origins: z
    .array(Origin)
    .max(100)
    .optional()
    .describe("Pages of these origins may read and upload; an empty list removes the rule"),
  expire_after_days: z
    .int()
    .min(0)
    .max(36_500)
    .optional()
    .describe("Objects are deleted this long after they were written; 0: never"),
  metadata: Metadata.optional(),
});

const actions = ["get", "list", "put", "delete", "configure"] as const;
export const BucketCredentials = z.object({
  name: z.string().max(200).optional(),
  prefix: z.string().max(1024).optional().describe("Every key that it may touch or list begins so"),
  actions: z
    .array(z.enum(actions))
    .min(1)
    .optional()
    .describe("What the key may do, in place of what `access` stands for"),
  access: z
    .string()
    .transform((text) => text.toLowerCase().replaceAll("_", "-"))
    .pipe(z.enum(["read", "read-only", "readonly", "write", "read-write", "readwrite", "full"]))
    .default("write"),
});

const tag = "Storage";
const d = { tag, envelope: "data" } as const;
const raw = { tag, envelope: "raw" } as const;
const base = "/storage/buckets/:id";
const objects = `${base}/objects/*`;
const away = ["STORAGE_UNAVAILABLE"] as const;
export const storageRoutes = {
  list: defineRoute({
    id: "listBuckets",
    method: "GET",
    path: "/storage/buckets",
    summary: "List buckets",
    tag,
    envelope: "list",
    scope: "storage:read",
    query: ListQuery,
    problems: away,
  }),
  create: defineRoute({
    id: "createBucket",
    method: "POST",
    path: "/storage/buckets",
    summary: "Create a bucket; answers after an object was written, read and removed in it",
    ...d,
    scope: "storage:write",
    status: 201,
    body: CreateBucket,
    response: Bucket,
    idempotent: true,
    problems: ["NAME_TAKEN", "STORAGE_UNAVAILABLE"],
  }),
  get: defineRoute({
    id: "getBucket",
    method: "GET",
    path: base,
    summary: "A bucket with what it holds now",
    ...d,
    scope: "storage:read",
    response: Bucket,
    problems: away,
  }),
  update: defineRoute({
    id: "updateBucket",
    method: "PATCH",
    path: base,
    summary: "Change who may read a bucket, its quota, versions, origins or expiry",
    ...d,
    scope: "storage:write",
    body: UpdateBucket,
    response: Bucket,
    problems: away,
  }),
  remove: defineRoute({
    id: "deleteBucket",
    method: "DELETE",
    path: base,
    summary: "Delete an empty bucket, or with force=true one with everything in it",
    ...d,
    scope: "storage:write",
    query: z.looseObject({ force: z.stringbool().catch(false).default(false) }),
    problems: ["BUCKET_NOT_EMPTY", "STORAGE_UNAVAILABLE"],
  }),
  objects: defineRoute({
    id: "listObjects",
    method: "GET",
    path: `${base}/objects`,
    summary: "List objects in the order of their keys",
    tag,
    envelope: "list",
    scope: "storage:read",
    query: ObjectsQuery,
    problems: away,
  }),
  putObject: defineRoute({
    id: "putObject",
    method: "PUT",
    path: objects,
    summary: "Store the body under a key, as it arrives",
    ...raw,
    scope: "storage:write",
    bytes: true,
    problems: ["INVALID_PATH", "QUOTA_EXCEEDED", "STORAGE_UNAVAILABLE"],
  }),
  getObject: defineRoute({
    id: "getObject",
    method: "GET",
    path: objects,
    summary: "The bytes of an object; takes Range",
    ...raw,
    scope: "storage:read",
    problems: ["INVALID_PATH", "STORAGE_UNAVAILABLE"],
  }),
  deleteObject: defineRoute({
    id: "deleteObject",
    method: "DELETE",
    path: objects,
    summary: "Delete an object; one that is absent is deleted already",
    ...d,
    scope: "storage:write",
    problems: ["INVALID_PATH", "STORAGE_UNAVAILABLE"],
  }),
  presign: defineRoute({
    id: "presignObject",
    method: "POST",
    path: `${base}/presign`,
    summary: "A URL that allows one call on one key without a credential; PUT needs storage:write",
    ...d,
    scope: "storage:read",
    body: Presign,
    problems: ["INVALID_PATH", "FORBIDDEN", "STORAGE_UNAVAILABLE"],
  }),
  presignPost: defineRoute({
    id: "presignPost",
    method: "POST",
    path: `${base}/presign-post`,
    summary: "Fields of a browser's form that may upload one file",
    ...d,
    scope: "storage:write",
    body: PresignPost,
    problems: ["INVALID_PATH", "STORAGE_UNAVAILABLE"],
  }),
  listCredentials: defineRoute({
    id: "listBucketCredentials",
    method: "GET",
    path: `${base}/credentials`,
    summary: "S3 credentials of this bucket, without their secrets",
    tag,
    envelope: "list",
    scope: "storage:write",
    problems: away,
  }),
  credentials: defineRoute({
    id: "createBucketCredentials",
    method: "POST",
    path: `${base}/credentials`,
    summary: "S3 credentials of this bucket alone; the secret is shown once",
    ...d,
    scope: "storage:write",
    status: 201,
    body: z.preprocess((body) => body ?? {}, BucketCredentials),
    problems: away,
  }),
  revokeCredentials: defineRoute({
    id: "deleteBucketCredentials",
    method: "DELETE",
    path: `${base}/credentials/:key`,
    summary: "Revoke S3 credentials",
    ...d,
    scope: "storage:write",
    body: NoBody,
    problems: away,
  }),
} as const;
