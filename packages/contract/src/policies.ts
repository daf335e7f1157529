import { z } from "zod";
import { defineRoute } from "./route.ts";

const tag = "Policies";
const common = { tag, envelope: "data" } as const;
const count = z.int().min(0).max(1_000_000).nullable();

export const QuotaLimits = z
  .strictObject({
    max_sandboxes: count.describe("Sandboxes that are not destroyed"),
    max_concurrent: count.describe("Sandboxes that run or are about to"),
    max_storage_gb: z.number().min(0).max(1_000_000).nullable().describe("Disks of all sandboxes together"),
    max_credit_cents: z
      .int()
      .min(0)
      .nullable()
      .describe(
        "Spent since the first of the month, by the operator's prices; see billing.enforce_credit_limit",
      ),
  })
  .partial();
export type QuotaLimits = z.output<typeof QuotaLimits>;

const flag = z.boolean().nullable();

/** What is absent or null is left to the next wider policy. */
export const Policy = z.strictObject({
  quotas: QuotaLimits.optional(),
  permissions: z
    .strictObject({
      can_create_sandbox: flag,
      can_use_gpu: flag,
      can_use_custom_domains: flag,
      can_use_forge: flag,
    })
    .partial()
    .optional(),
  features: z.strictObject({ snapshot_enabled: flag, port_forwarding_enabled: flag }).partial().optional(),
  billing: z.strictObject({ enforce_credit_limit: flag }).partial().optional(),
});
export type Policy = z.output<typeof Policy>;

function policyRoutes(id: string, path: string, whose: string) {
  const read = { ...common, scope: "projects:read" as const };
  const write = { ...common, scope: "projects:write" as const };
  return {
    get: defineRoute({ id: `get${id}Policy`, method: "GET", path, summary: `Policy of ${whose}`, ...read }),
    put: defineRoute({
      ...{ id: `set${id}Policy`, method: "PUT", path, summary: `Replace the policy of ${whose}`, ...write },
      body: Policy,
    }),
    remove: defineRoute({
      ...{ id: `delete${id}Policy`, method: "DELETE", path, ...write },
      summary: `Leave ${whose} to the next wider policy`,
    }),
  };
}

const Scope = z.looseObject({
  workspace_id: z.string().optional(),
  external_user_id: z.string().optional(),
});

export const policiesRoutes = {
  tenant: policyRoutes("Tenant", "/tenant/policy", "the tenant"),
  workspace: policyRoutes("Workspace", "/workspaces/:id/policy", "a workspace"),
  user: policyRoutes("ExternalUser", "/external-users/:id/policy", "one of the tenant's own users"),
  effective: defineRoute({
    id: "getEffectivePolicy",
    method: "GET",
    path: "/effective-policy",
    summary: "What holds, and which policy says so",
    ...common,
    scope: "projects:read",
    query: Scope,
  }),
  effectiveOfUser: defineRoute({
    id: "getExternalUserEffectivePolicy",
    method: "GET",
    path: "/external-users/:id/effective-policy",
    summary: "What holds for one of the tenant's own users",
    ...common,
    scope: "projects:read",
    query: Scope,
  }),
  quota: {
    get: defineRoute({
      id: "getExternalUserQuota",
      method: "GET",
      path: "/quotas/external/:id",
      summary: "Limits that hold for a user, and what is used of them",
      ...common,
      scope: "projects:read",
    }),
    put: defineRoute({
      id: "setExternalUserQuota",
      method: "PUT",
      path: "/quotas/external/:id",
      summary: "Change limits of a user; those not named stay",
      ...common,
      scope: "projects:write",
      body: QuotaLimits,
    }),
    remove: defineRoute({
      id: "deleteExternalUserQuota",
      method: "DELETE",
      path: "/quotas/external/:id",
      summary: "Leave the user's limits to the wider policies",
      ...common,
      scope: "projects:write",
    }),
  },
};
