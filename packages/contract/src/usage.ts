import { z } from "zod";
import { queryInt } from "./fields.ts";
import { defineRoute } from "./route.ts";

const tag = "Usage";
const When = z.iso.datetime({ offset: true }).or(z.iso.date()).optional();
const Period = z.looseObject({ period_start: When, period_end: When });

export const usageRoutes = {
  usage: defineRoute({
    id: "getUsage",
    method: "GET",
    path: "/usage",
    summary: "Measured run time",
    tag,
    envelope: "top",
    scope: "billing:read",
    query: z.looseObject({
      period: z
        .string()
        .regex(/^(?:\d{1,3}d|month-to-date)$/, "days such as 30d, or month-to-date")
        .default("30d"),
      start: When,
      end: When,
      group_by: z
        .enum([
          "workspace_id",
          "project_id",
          "external_user_id",
          "external_workspace_id",
          "external_project_id",
        ])
        .optional(),
      bucket: z.enum(["day"]).optional(),
      external_user_id: z.string().optional(),
      workspace_id: z.string().optional(),
    }),
  }),
  summary: defineRoute({
    id: "getUsageSummary",
    method: "GET",
    path: "/usage/summary",
    summary: "One period in figures",
    tag,
    envelope: "data",
    scope: "billing:read",
    query: Period,
  }),
  sessions: defineRoute({
    id: "listUsageSessions",
    method: "GET",
    path: "/usage/sessions",
    summary: "Stretches of time that sandboxes ran",
    tag,
    envelope: "list",
    scope: "billing:read",
    query: z.looseObject({ limit: queryInt(1, 200, 50), cursor: z.string().optional() }),
  }),
  balance: defineRoute({
    id: "getCreditBalance",
    method: "GET",
    path: "/credits/balance",
    summary: "Credits, in cents",
    tag,
    envelope: "top",
    scope: "billing:read",
  }),
  transactions: defineRoute({
    id: "listCreditTransactions",
    method: "GET",
    path: "/credits/transactions",
    summary: "Movements of credits",
    tag,
    envelope: "top",
    scope: "billing:read",
    query: z.looseObject({ page: queryInt(1, 100_000, 1), per_page: queryInt(1, 200, 50) }),
  }),
  creditUsage: defineRoute({
    id: "getCreditUsage",
    method: "GET",
    path: "/credits/usage",
    summary: "Credits spent in a period",
    tag,
    envelope: "top",
    scope: "billing:read",
    query: Period,
  }),
  auditLog: defineRoute({
    id: "listAuditLog",
    method: "GET",
    path: "/audit-log",
    summary: "Who changed what, newest first",
    tag: "Audit log",
    envelope: "top",
    scope: "events:read",
    query: z.looseObject({
      type: z.string().optional(),
      action: z.string().optional(),
      actor_id: z.string().optional(),
      resource_type: z.string().optional(),
      resource_id: z.string().optional(),
      category: z.string().optional(),
      workspace_id: z.string().optional(),
      limit: queryInt(1, 500, 100),
      after: z.string().optional(),
      cursor: z.string().optional(),
    }),
  }),
} as const;
