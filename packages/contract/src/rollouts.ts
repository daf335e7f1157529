import { z } from "zod";
import { ListQuery, NoBody } from "./fields.ts";
import { defineRoute } from "./route.ts";

/** Rules for what is kept of the releases of a deployment; a release that is in use is kept whatever they say. */
export const RetentionRules = z.object({
  keep_last: z.int().min(1).max(1000).describe("Newest ready releases that stay"),
  keep_days: z.int().min(0).max(3650).describe("Releases younger than this stay"),
});
export type RetentionRules = z.output<typeof RetentionRules>;

/** How a deployment runs; seconds unless said. */
export const RunSettings = z.object({
  instances: z.int().min(1).max(20).default(1).describe("Boxes that serve at once"),
  scale_to_zero: z
    .boolean()
    .default(false)
    .describe("Without traffic nothing runs; the first request wakes it"),
  idle_sec: z.int().min(2).max(86_400).default(300).describe("Without traffic until it sleeps"),
  keep_warm_releases: z
    .int()
    .min(0)
    .max(5)
    .default(1)
    .describe("Earlier releases whose instances go on running"),
  keep_warm_sec: z.int().min(0).max(604_800).default(1800),
  drain_sec: z
    .int()
    .min(1)
    .max(600)
    .default(15)
    .describe("An instance without new traffic finishes what it has"),
  websocket_drain: z
    .enum(["close", "keep"])
    .default("close")
    .describe(
      "WebSockets to an instance without new traffic: closed with 1001 after websocket_drain_sec, or kept until then",
    ),
  websocket_drain_sec: z.int().min(0).max(3600).default(10),
  stop_grace_sec: z.int().min(1).max(120).default(10).describe("From SIGTERM to SIGKILL"),
  settle_sec: z
    .int()
    .min(0)
    .max(300)
    .default(0)
    .describe("New instances run this long without an exit before they get traffic"),
  trial_sec: z
    .int()
    .min(0)
    .max(86_400)
    .default(300)
    .describe("A release that dies within this time is replaced by the one before"),
  promote_timeout_sec: z.int().min(5).max(3600).default(120),
  approval_required: z.boolean().default(false).describe("A promote waits for another key's approval"),
  schema_policy: z
    .enum(["warn", "refuse"])
    .default("warn")
    .describe("Rollback behind migrations that ran since"),
  locked: z
    .string()
    .max(500)
    .default("")
    .describe("Why no promote is taken now; empty: they are. A rollback always is"),
  retention: RetentionRules.partial().default({}),
});
export type RunSettings = z.output<typeof RunSettings>;

export const CanaryPlan = z.object({
  steps: z
    .array(z.number().gt(0).max(100))
    .min(1)
    .max(20)
    .describe("Percent of the requests, one after the other"),
  step_sec: z.int().min(1).max(86_400).default(60),
  max_error_rate: z.number().min(0).max(1).default(0.05).describe("Part of answers with 5xx, or none at all"),
  min_errors: z.int().min(1).max(1000).default(3).describe("Fewer errors stop nothing"),
  sticky: z.enum(["client", "request"]).default("client"),
});
export type CanaryPlan = z.output<typeof CanaryPlan>;

export const PromoteOptions = z.object({
  environment: z.string().optional(),
  canary: z.union([z.coerce.number().gt(0).max(100), CanaryPlan]).optional(),
  at: z.iso.datetime({ offset: true }).optional().describe("Not before this time"),
  settle_sec: RunSettings.shape.settle_sec.unwrap().optional(),
  wait: z.boolean().optional().describe("false: answers as soon as it stands in the queue"),
});
export type PromoteOptions = z.output<typeof PromoteOptions>;

export const promotionStates = [
  "awaiting_approval",
  "scheduled",
  "queued",
  "running",
  "succeeded",
  "failed",
  "cancelled",
] as const;

export const Promotion = z.looseObject({
  id: z.uuid(),
  deployment_id: z.uuid(),
  release_id: z.uuid(),
  kind: z.enum(["promote", "rollback", "return"]),
  state: z.enum(promotionStates),
  artifact_sha256: z.string().nullable(),
});

const tag = "Deployments";
const d = { tag, envelope: "data" } as const;
const base = "/deployments/:id";
const one = `${base}/promotions/:pid`;

export const rolloutRoutes = {
  promotions: defineRoute({
    ...{ id: "listPromotions", method: "GET", path: `${base}/promotions`, tag, envelope: "list" },
    summary: "Promotes, rollbacks and automatic returns, newest first",
    scope: "deployments:read",
    query: ListQuery,
  }),
  promotion: defineRoute({
    ...{ id: "getPromotion", method: "GET", path: one, summary: "A promotion", ...d },
    scope: "deployments:read",
    response: Promotion,
  }),
  approve: defineRoute({
    ...{ id: "approvePromotion", method: "POST", path: `${one}/approve`, ...d },
    summary: "Approve exactly this digest; by another key than the one that asked",
    scope: "deployments:write",
    body: z
      .object({ artifact_sha256: z.string().optional(), note: z.string().max(1000).optional() })
      .optional(),
    response: Promotion,
    problems: ["APPROVAL_REFUSED", "CONFLICT"],
  }),
  cancel: defineRoute({
    ...{ id: "cancelPromotion", method: "POST", path: `${one}/cancel`, ...d },
    summary: "Cancel a promotion that is not over; traffic goes back to what served",
    scope: "deployments:write",
    body: NoBody,
    response: Promotion,
    problems: ["CONFLICT"],
  }),
  maintenance: defineRoute({
    ...{ id: "setMaintenance", method: "POST", path: `${base}/maintenance`, ...d },
    summary: "Show a maintenance page, hold requests for a while, or serve again",
    scope: "deployments:write",
    body: z.object({
      mode: z.enum(["on", "hold", "off"]).default("on"),
      message: z.string().max(500).optional(),
      hold_sec: z.int().min(1).max(300).default(60).describe("Then held requests go on to the app"),
    }),
  }),
  pin: defineRoute({
    ...{ id: "pinRelease", method: "POST", path: `${base}/releases/:rid/pin`, ...d },
    summary: "Keep a release whatever the retention rules say",
    scope: "deployments:write",
    body: z.object({ reason: z.string().max(500).optional() }).optional(),
    problems: ["RELEASE_NOT_READY"],
  }),
  unpin: defineRoute({
    ...{ id: "unpinRelease", method: "DELETE", path: `${base}/releases/:rid/pin`, ...d },
    summary: "Let the retention rules decide again",
    scope: "deployments:write",
  }),
  retention: defineRoute({
    ...{ id: "getRetention", method: "GET", path: "/retention", ...d },
    summary: "The tenant's rules for releases",
    scope: "deployments:read",
  }),
  setRetention: defineRoute({
    ...{ id: "setRetention", method: "PUT", path: "/retention", ...d },
    summary: "Set the tenant's rules for releases",
    scope: "deployments:write",
    body: RetentionRules.partial(),
  }),
} as const;
