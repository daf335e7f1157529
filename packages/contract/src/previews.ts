import { z } from "zod";
import { Port } from "./fields.ts";
import { defineRoute } from "./route.ts";

const tag = "Previews";
const base = "/sandboxes/:id/previews";

/** What was seen before the URL was handed out. */
export const ProbeRecord = z.object({
  at: z.string(),
  guest: z.object({ ok: z.boolean(), http_status: z.int().nullable(), latency_ms: z.number().nullable() }),
  edge: z.object({
    ok: z.boolean(),
    http_status: z.int().nullable(),
    latency_ms: z.number().nullable(),
    hostname: z.string(),
  }),
  websocket: z.object({
    ok: z.boolean(),
    answered: z.string().describe("switched, or the app's own refusal such as 404"),
    latency_ms: z.number().nullable(),
  }),
});
export type ProbeRecord = z.output<typeof ProbeRecord>;

export const Preview = z.looseObject({
  id: z.uuid(),
  port: z.int(),
  state: z.string(),
  visibility: z.string(),
  url: z.string(),
});

export const previewRoutes = {
  expose: defineRoute({
    id: "expose",
    method: "POST",
    path: "/sandboxes/:id/expose",
    summary: "Prove a port reachable and get its URL",
    tag,
    envelope: "top",
    scope: "previews:write",
    body: z
      .object({
        port: Port.optional(),
        title: z.string().max(200).optional(),
        wait_ms: z.coerce.number().int().min(0).max(120_000).optional(),
        path: z.string().startsWith("/").optional(),
      })
      .optional(),
    response: z.looseObject({
      url: z.string(),
      preview_id: z.uuid(),
      port: z.int(),
      ready: z.boolean(),
      probe: ProbeRecord,
    }),
    problems: ["PORT_NOT_REACHABLE"],
  }),
  list: defineRoute({
    id: "listPreviews",
    method: "GET",
    path: base,
    summary: "Previews of a sandbox",
    tag,
    envelope: "data",
    scope: "previews:read",
  }),
  create: defineRoute({
    id: "createPreview",
    method: "POST",
    path: base,
    summary: "Create a preview",
    tag,
    envelope: "data",
    scope: "previews:write",
    status: 201,
    body: z.object({
      port: Port,
      name: z.string().max(200).optional(),
      visibility: z.enum(["private", "public"]).default("private"),
      ttl_seconds: z.coerce.number().int().min(1).optional(),
    }),
    problems: ["PORT_NOT_REACHABLE"],
  }),
  get: defineRoute({
    id: "getPreview",
    method: "GET",
    path: `${base}/:pid`,
    summary: "A preview",
    tag,
    envelope: "data",
    scope: "previews:read",
  }),
  remove: defineRoute({
    id: "deletePreview",
    method: "DELETE",
    path: `${base}/:pid`,
    summary: "Remove a preview",
    tag,
    envelope: "data",
    scope: "previews:write",
  }),
  status: defineRoute({
    id: "getPreviewStatus",
    method: "GET",
    path: `${base}/:pid/status`,
    summary: "What the preview answers now",
    tag,
    envelope: "data",
    scope: "previews:read",
  }),
} as const;
