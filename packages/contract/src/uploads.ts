import { z } from "zod";
import { defineRoute } from "./route.ts";

const Sha256 = z.string().regex(/^[0-9a-f]{64}$/);
export const longestUploadBytes = 4 * 1024 ** 3;
/** With its headers a chunk passes proxies that allow 1 MB. */
export const largestUploadChunk = 960 * 1024;

export const CreateUpload = z.object({
  size_bytes: z.int().min(1).max(longestUploadBytes),
  sha256: Sha256.describe("Of the whole: an uncompressed tar of the app's folder"),
  filename: z.string().max(255).optional(),
  chunks: z
    .array(z.object({ sha256: Sha256, size_bytes: z.int().min(1).max(largestUploadChunk) }))
    .min(1)
    .max(50_000)
    .describe("In their order; sizes are the client's choice"),
});

export const Upload = z.looseObject({
  id: z.uuid(),
  deployment_id: z.uuid(),
  state: z.enum(["open", "complete"]),
  size_bytes: z.int(),
  sha256: Sha256,
  chunk_size: z.int().describe("Most bytes of a chunk"),
  missing: z.array(z.int()).describe("Numbers of the chunks that are to be sent, from 0"),
  expires_at: z.string(),
});
export type Upload = z.output<typeof Upload>;

const base = "/deployments/:id/uploads";
const d = { tag: "Deployments", envelope: "data", scope: "deployments:write" } as const;

export const uploadRoutes = {
  create: defineRoute({
    id: "createUpload",
    method: "POST",
    path: base,
    summary: "Begin an upload; says which chunks are not there yet",
    ...d,
    status: 201,
    idempotent: true,
    body: CreateUpload,
    response: Upload,
  }),
  get: defineRoute({
    id: "getUpload",
    method: "GET",
    path: `${base}/:uid`,
    summary: "An upload and the chunks that it lacks",
    ...d,
    response: Upload,
  }),
  putChunk: defineRoute({
    id: "putUploadChunk",
    method: "PUT",
    path: `${base}/:uid/chunks/:n`,
    summary: "Send a chunk as the raw body; one that is there already costs nothing",
    ...d,
    bytes: true,
    problems: ["DIGEST_MISMATCH", "PAYLOAD_TOO_LARGE"],
  }),
  complete: defineRoute({
    id: "completeUpload",
    method: "POST",
    path: `${base}/:uid/complete`,
    summary: "Put the chunks together; then publish with source_upload_id",
    ...d,
    response: Upload,
    problems: ["UPLOAD_INCOMPLETE", "DIGEST_MISMATCH"],
  }),
} as const;
