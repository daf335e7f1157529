import { z } from "zod";
import { Port, queryInt } from "./fields.ts";
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

const ShareSeconds = z.coerce
  .number()
  .int()
  .min(1)
  .max(30 * 86_400);
export const Share = z.object({
  share_id: z.uuid(),
  share_url: z.string().describe("With its token where the answer is that of the creating call"),
  preview_id: z.uuid().nullable(),
  token_prefix: z.string(),
  scope: z.string(),
  expires_at: z.string(),
});

const BrowserConsole = z
  .boolean()
  .optional()
  .describe("false: pages of this preview are not listened to; standard is what the sandbox says");

/** What a page of a preview said in a visitor's browser. Nobody vouches for it but the visitor. */
export const ConsoleLine = z.object({
  seq: z.int().describe("Of the event that brought it"),
  at: z.string(),
  preview_id: z.uuid(),
  port: z.int(),
  level: z.enum(["error", "warn", "info", "log", "debug"]),
  kind: z
    .enum(["console", "exception", "rejection", "request", "resource", "notice"])
    .describe("notice: why a page is not listened to"),
  text: z.string(),
  page: z.string().nullable().describe("Path of the page, without query"),
  source: z.string().nullable(),
  line: z.int().nullable(),
  column: z.int().nullable(),
  stack: z.string().nullable(),
  method: z.string().nullable(),
  status: z.int().nullable().describe("Of a request that failed; null: no answer came"),
});
export type ConsoleLine = z.output<typeof ConsoleLine>;

export const previewRoutes = {
  console: defineRoute({
    id: "getConsole",
    method: "GET",
    path: "/sandboxes/:id/console",
    summary: "What pages of the sandbox's previews said in browsers, the newest last",
    tag,
    envelope: "top",
    scope: "sandboxes:read",
    query: z.object({
      limit: queryInt(1, 1_000, 100),
      level: z.enum(["error", "warn", "info", "log", "debug"]).optional().describe("This one or graver"),
    }),
    response: z.object({
      lines: z.array(ConsoleLine),
      dropped: z.int().describe("Lines that came too fast to be kept, beside those shown"),
      cursor: z.int().describe("Last-Event-ID with which the stream goes on after these lines"),
    }),
  }),
  consoleStream: defineRoute({
    id: "streamConsole",
    method: "GET",
    path: "/sandboxes/:id/console/stream",
    summary: "The same as server-sent events: preview.console with entries, as on the stream of events",
    tag,
    envelope: "raw",
    scope: "sandboxes:read",
    stream: true,
    query: z.looseObject({}),
  }),
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
        console: BrowserConsole,
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
      console: BrowserConsole,
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
  share: defineRoute({
    id: "sharePreview",
    method: "POST",
    path: `${base}/:pid/share`,
    summary: "A link that opens the preview for a while; the token is shown this once",
    tag,
    envelope: "data",
    status: 201,
    scope: "previews:write",
    body: z.object({ ttl_seconds: ShareSeconds.default(3600) }).prefault({}),
    response: Share.extend({ share_token: z.string() }),
    idempotent: true,
    problems: ["QUOTA_EXCEEDED"],
  }),
  unshare: defineRoute({
    id: "unsharePreview",
    method: "DELETE",
    path: `${base}/:pid/share`,
    summary: "End all links of the preview",
    tag,
    envelope: "data",
    scope: "previews:write",
  }),
  token: defineRoute({
    id: "createPreviewToken",
    method: "POST",
    path: "/sandboxes/:id/preview-token",
    summary: "A token that opens all previews of the sandbox for a while",
    tag,
    envelope: "data",
    status: 201,
    scope: "previews:write",
    body: z
      .object({ expires_in: ShareSeconds.default(3600), scope: z.literal("read").default("read") })
      .prefault({}),
    response: z.object({ token: z.string(), url: z.string(), expires_at: z.string(), scope: z.string() }),
    idempotent: true,
    problems: ["QUOTA_EXCEEDED"],
  }),
  shareList: defineRoute({
    id: "listShares",
    method: "GET",
    path: "/sandboxes/:id/shares",
    summary: "Links and tokens that are good now, without their secret",
    tag,
    envelope: "data",
    scope: "previews:read",
    response: z.array(Share),
  }),
  shareCreate: defineRoute({
    id: "createShare",
    method: "POST",
    path: "/sandboxes/:id/shares",
    summary: "A link that opens all previews of the sandbox for a while",
    tag,
    envelope: "data",
    status: 201,
    scope: "previews:write",
    body: z
      .object({ scope: z.literal("read").default("read"), expires_in: ShareSeconds.default(3600) })
      .prefault({}),
    response: Share,
    idempotent: true,
    problems: ["QUOTA_EXCEEDED"],
  }),
  shareRemove: defineRoute({
    id: "deleteShare",
    method: "DELETE",
    path: "/sandboxes/:id/shares/:sid",
    summary: "End a link or token at once",
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
