import { z } from "zod";
import { EnvName, Metadata, Name, Port, queryInt } from "./fields.ts";
import { defineRoute } from "./route.ts";

const envTag = "Runtime environment";
const env = { tag: envTag, envelope: "data" } as const;
const Scope = z.enum(["tenant", "workspace", "project"]);
const Target = z.enum(["all", "sandbox", "computer", "agent", "deployment"]);

export const runtimeEnvRoutes = {
  list: defineRoute({
    id: "listRuntimeEnv",
    method: "GET",
    path: "/runtime-env",
    summary: "Values given to every new resource in a scope; never the value itself",
    ...env,
    scope: "env:read",
    query: z.looseObject({
      scope: Scope.optional(),
      target: Target.optional(),
      workspace_id: z.string().optional(),
      project_id: z.string().optional(),
    }),
  }),
  set: defineRoute({
    id: "setRuntimeEnv",
    method: "POST",
    path: "/runtime-env",
    summary: "Set a value; the same name in the same scope is replaced",
    ...env,
    status: 201,
    scope: "env:write",
    idempotent: true,
    body: z.object({
      scope: Scope.default("tenant"),
      target: Target.default("all"),
      workspace_id: z.string().optional(),
      project_id: z.string().optional(),
      name: EnvName,
      value: z.coerce.string().max(128 * 1024),
      enabled: z.boolean().default(true),
      metadata: Metadata.default({}),
    }),
  }),
  get: defineRoute({
    id: "getRuntimeEnv",
    method: "GET",
    path: "/runtime-env/:id",
    summary: "A value's description",
    ...env,
    scope: "env:read",
  }),
  remove: defineRoute({
    id: "deleteRuntimeEnv",
    method: "DELETE",
    path: "/runtime-env/:id",
    summary: "Remove a value",
    ...env,
    scope: "env:write",
  }),
} as const;

const egressTag = "Egress";
const egress = { tag: egressTag, envelope: "data" } as const;
const Mode = z.enum(["enforce", "audit_only"]);
const Effect = z.enum(["allow", "deny"]);
const ResourceType = z.enum(["sandbox"]);

/** A DNS name, `*.` and a name, `*`, an address or a range of addresses. */
const EgressHost = z
  .string()
  .trim()
  .toLowerCase()
  .max(253)
  .regex(
    /^(?:\*|(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?|[0-9a-f.:]+(?:\/\d{1,3})?)$/,
    "a name such as api.example.com or *.example.com, an address, or a range such as 203.0.113.0/24",
  );

const PolicyChange = z.object({
  name: Name.optional(),
  mode: Mode.optional(),
  default_effect: Effect.optional(),
  default_action: Effect.optional(),
  description: z.string().max(2_000).optional(),
});

export const egressRoutes = {
  policies: defineRoute({
    id: "listEgressPolicies",
    method: "GET",
    path: "/egress/policies",
    summary: "Policies for outgoing connections",
    ...egress,
    scope: "egress:read",
    query: z.looseObject({ resource_type: z.string().optional(), resource_id: z.string().optional() }),
  }),
  createPolicy: defineRoute({
    id: "createEgressPolicy",
    method: "POST",
    path: "/egress/policies",
    summary: "Create a policy for one sandbox, or without resource_id for all",
    ...egress,
    status: 201,
    scope: "egress:write",
    idempotent: true,
    body: z.object({
      ...PolicyChange.shape,
      name: Name,
      resource_type: ResourceType.optional(),
      resource_id: z.string().optional(),
    }),
    problems: ["NAME_TAKEN", "HOST_UNAVAILABLE"],
  }),
  policy: defineRoute({
    id: "getEgressPolicy",
    method: "GET",
    path: "/egress/policies/:id",
    summary: "A policy",
    ...egress,
    scope: "egress:read",
  }),
  updatePolicy: defineRoute({
    id: "updateEgressPolicy",
    method: "PATCH",
    path: "/egress/policies/:id",
    summary: "Change a policy",
    ...egress,
    scope: "egress:write",
    body: PolicyChange,
    problems: ["HOST_UNAVAILABLE"],
  }),
  updatePolicyOf: defineRoute({
    id: "updateEgressPolicyOfResource",
    method: "PATCH",
    path: "/egress/policies",
    summary: "Change the policy of a resource",
    ...egress,
    scope: "egress:write",
    body: z.object({
      ...PolicyChange.shape,
      resource_type: ResourceType.default("sandbox"),
      resource_id: z.string(),
    }),
    problems: ["HOST_UNAVAILABLE"],
  }),
  rules: defineRoute({
    id: "listEgressRules",
    method: "GET",
    path: "/egress/allowlist",
    summary: "Rules",
    ...egress,
    scope: "egress:read",
    query: z.looseObject({
      policy_id: z.string().optional(),
      resource_type: z.string().optional(),
      resource_id: z.string().optional(),
    }),
  }),
  addRule: defineRoute({
    id: "createEgressRule",
    method: "POST",
    path: "/egress/allowlist",
    summary: "Allow or deny a host",
    ...egress,
    status: 201,
    scope: "egress:write",
    idempotent: true,
    body: z.object({
      host: EgressHost,
      port: Port.optional(),
      effect: Effect.default("allow"),
      methods: z.array(z.string()).optional(),
      path_glob: z.string().optional(),
      policy_id: z.string().optional(),
      resource_type: ResourceType.optional(),
      resource_id: z.string().optional(),
      note: z.string().max(2_000).optional(),
    }),
    problems: ["HOST_UNAVAILABLE"],
  }),
  removeRule: defineRoute({
    id: "deleteEgressRule",
    method: "DELETE",
    path: "/egress/allowlist/:id",
    summary: "Remove a rule",
    ...egress,
    scope: "egress:write",
    problems: ["HOST_UNAVAILABLE"],
  }),
  audit: defineRoute({
    id: "listEgressAudit",
    method: "GET",
    path: "/egress/audit",
    summary: "Outgoing connections that sandboxes tried, newest first",
    ...egress,
    scope: "egress:read",
    query: z.looseObject({
      limit: queryInt(1, 1_000, 100),
      sandbox_id: z.string().optional(),
      resource_id: z.string().optional(),
      host: z.string().optional(),
      action: z.string().optional(),
    }),
  }),
} as const;
