import { z } from "zod";
import { Metadata, Name, NoBody, queryInt } from "./fields.ts";
import { defineRoute } from "./route.ts";

const HeaderName = z.string().regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$/, "a header name");
const HeaderValue = z
  .string()
  .max(4_096)
  .regex(/^[\t\x20-\x7e]*$/, "printable ASCII on one line");

const WebhookFields = z.object({
  url: z.string().max(2_048).optional(),
  events: z.array(z.string().max(100)).max(200).optional().describe("Empty: all"),
  name: Name.optional(),
  description: z.string().max(2_000).optional(),
  active: z.boolean().optional(),
  enabled: z.boolean().optional(),
  headers: z.record(HeaderName, HeaderValue).optional(),
  retry_count: z.coerce.number().int().min(0).max(10).optional().describe("0: no retries"),
  metadata: Metadata.optional(),
});

export const CreateWebhook = z.object({
  ...WebhookFields.shape,
  url: z.string().max(2_048),
  secret: z.string().min(8).max(256).optional(),
  workspace_id: z.string().optional(),
});
export type CreateWebhook = z.output<typeof CreateWebhook>;

export const UpdateWebhook = z.object({
  ...WebhookFields.shape,
  state: z.enum(["active", "inactive"]).optional(),
});
export type UpdateWebhook = z.output<typeof UpdateWebhook>;

const tag = "Webhooks";
const hook = { tag, envelope: "data" } as const;

export const webhookRoutes = {
  catalogue: defineRoute({
    id: "listWebhookEvents",
    method: "GET",
    path: "/webhooks/events",
    summary: "Event names, and how deliveries are signed",
    tag,
    envelope: "top",
    scope: "events:read",
  }),
  list: defineRoute({
    id: "listWebhooks",
    method: "GET",
    path: "/webhooks",
    summary: "Webhooks",
    tag,
    envelope: "list",
    scope: "events:read",
    query: z.looseObject({
      workspace_id: z.string().optional(),
      limit: queryInt(1, 200, 100),
      cursor: z.string().optional(),
    }),
  }),
  create: defineRoute({
    id: "createWebhook",
    method: "POST",
    path: "/webhooks",
    summary: "Create a webhook; its secret is shown once",
    ...hook,
    status: 201,
    scope: "events:write",
    body: CreateWebhook,
    idempotent: true,
    problems: ["UNKNOWN_EVENT_TYPE", "EVENTS_NOT_WORKSPACE_SCOPABLE"],
  }),
  get: defineRoute({
    id: "getWebhook",
    method: "GET",
    path: "/webhooks/:id",
    summary: "A webhook",
    ...hook,
    scope: "events:read",
  }),
  update: defineRoute({
    id: "updateWebhook",
    method: "PATCH",
    path: "/webhooks/:id",
    summary: "Change a webhook",
    ...hook,
    scope: "events:write",
    body: UpdateWebhook,
    problems: ["UNKNOWN_EVENT_TYPE", "EVENTS_NOT_WORKSPACE_SCOPABLE"],
  }),
  remove: defineRoute({
    id: "deleteWebhook",
    method: "DELETE",
    path: "/webhooks/:id",
    summary: "Delete a webhook and its deliveries",
    ...hook,
    scope: "events:write",
  }),
  test: defineRoute({
    id: "testWebhook",
    method: "POST",
    path: "/webhooks/:id/test",
    summary: "Send a test event",
    ...hook,
    scope: "events:write",
    body: NoBody,
    idempotent: true,
  }),
  deliveries: defineRoute({
    id: "listWebhookDeliveries",
    method: "GET",
    path: "/webhooks/:id/deliveries",
    summary: "Deliveries, newest first",
    ...hook,
    scope: "events:read",
    query: z.looseObject({ limit: queryInt(1, 200, 50), before: z.string().optional() }),
  }),
  replay: defineRoute({
    id: "replayWebhookDelivery",
    method: "POST",
    path: "/webhooks/:id/deliveries/:did/replay",
    summary: "Deliver again",
    ...hook,
    scope: "events:write",
    body: z.object({ replay_id: z.string().min(1).max(200).optional() }).optional(),
    idempotent: true,
    problems: ["REPLAY_NOT_POSSIBLE"],
  }),
  platformEvents: defineRoute({
    id: "listPlatformEvents",
    method: "GET",
    path: "/platform-events",
    summary: "Stored events in their order",
    tag: "Events",
    envelope: "top",
    scope: "events:read",
    query: z.looseObject({
      after_seq: z.coerce.number().int().min(0).default(0),
      limit: queryInt(1, 200, 50),
      types: z.string().optional(),
    }),
  }),
} as const;
