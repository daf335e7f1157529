import { z } from "zod";
import { ListQuery } from "./fields.ts";
import { defineRoute } from "./route.ts";

export const resourceTypes = [
  "sandbox",
  "preview",
  "deployment",
  "database",
  "bucket",
  "cron_job",
  "domain",
] as const;

export const Resource = z.looseObject({
  type: z.enum(resourceTypes),
  id: z.string(),
  name: z.string(),
  state: z.string(),
  proof: z
    .looseObject({
      ok: z.boolean(),
      at: z.string(),
      what: z.string().describe("What was seen"),
      detail: z.string().nullable(),
    })
    .nullable()
    .describe("The last independent look at it; null before the first one"),
  cost: z.looseObject({
    running_seconds: z.number().nullable().describe("Within the last 30 days; null where it is not measured"),
    cents: z.int(),
  }),
  created_at: z.string(),
});

export const resourceRoutes = {
  list: defineRoute({
    id: "listResources",
    method: "GET",
    path: "/resources",
    summary: "Everything an app has: state, last proof and cost",
    tag: "Resources",
    envelope: "list",
    scope: "billing:read",
    query: ListQuery.extend({
      type: z.enum(resourceTypes).optional().catch(undefined),
      deployment_id: z
        .string()
        .optional()
        .describe("What this deployment has: itself, its databases, jobs, domains"),
      sandbox_id: z
        .string()
        .optional()
        .describe("What this sandbox has: itself, its previews, databases, jobs"),
    }),
  }),
} as const;
