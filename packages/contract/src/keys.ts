import { z } from "zod";
import { Name, NoBody, queryInt } from "./fields.ts";
import { defineRoute } from "./route.ts";

const day = 86_400;

const AllowedIps = z
  .array(z.string().regex(/^[0-9a-fA-F.:]+(\/\d{1,3})?$/, "an address or a range such as 203.0.113.0/24"))
  .max(100);
const RateLimit = z.coerce.number().int().min(1).max(1_000_000).describe("Requests a minute");
const Scopes = z.array(z.string().max(100)).max(100);
const ExpiresAt = z.iso.datetime({ offset: true });

export const CreateApiKey = z.object({
  name: Name,
  scopes: Scopes.optional().describe("Without scopes and preset: those of the key that asks"),
  preset: z.string().optional(),
  key_type: z.enum(["user", "platform", "tenant", "admin"]).default("user"),
  expires_at: ExpiresAt.optional(),
  expires_in_days: z.coerce.number().int().min(1).max(3650).optional(),
  workspace_id: z.string().optional(),
  allowed_ips: AllowedIps.optional(),
  rate_limit_rpm: RateLimit.optional(),
});
export type CreateApiKey = z.output<typeof CreateApiKey>;

export const ApiKey = z.looseObject({
  id: z.uuid(),
  name: z.string(),
  key_prefix: z.string(),
  last_four: z.string(),
  key_type: z.string(),
  status: z.enum(["active", "revoked", "expired"]),
  scopes: z.array(z.string()),
  workspace_id: z.string().nullable(),
  expires_at: z.string().nullable(),
  last_used_at: z.string().nullable(),
  created_at: z.string(),
});

const tag = "API keys";
// What a key may do to other keys depends on the rights of both, which no single scope can say.
const key = { tag, envelope: "data", scope: null, response: ApiKey } as const;

export const keyRoutes = {
  list: defineRoute({
    id: "listApiKeys",
    method: "GET",
    path: "/api-keys",
    summary: "Keys with no more rights than the one that asks",
    tag,
    envelope: "list",
    scope: null,
    query: z.looseObject({
      all: z.string().optional().describe("true: also revoked ones"),
      limit: queryInt(1, 500, 200),
      workspace_id: z.string().optional(),
    }),
  }),
  presets: defineRoute({
    id: "listApiKeyPresets",
    method: "GET",
    path: "/api-keys/presets",
    summary: "Named sets of scopes",
    tag,
    envelope: "data",
    scope: null,
  }),
  get: defineRoute({
    id: "getApiKey",
    method: "GET",
    path: "/api-keys/:id",
    summary: "A key, without its secret",
    ...key,
  }),
  create: defineRoute({
    id: "createApiKey",
    method: "POST",
    path: "/api-keys",
    summary: "Create a key; its secret is shown once",
    ...key,
    status: 201,
    body: CreateApiKey,
    idempotent: true,
  }),
  createScoped: defineRoute({
    id: "createScopedApiKey",
    method: "POST",
    path: "/api-keys/scoped",
    summary: "Create a key for one external user",
    ...key,
    status: 201,
    idempotent: true,
    body: z.object({
      label: Name.optional(),
      workspace_id: z.string().optional(),
      external_user_id: z.string().min(1).max(255),
      scopes: Scopes.optional(),
      expires_at: ExpiresAt.optional(),
    }),
  }),
  update: defineRoute({
    id: "updateApiKey",
    method: "PATCH",
    path: "/api-keys/:id",
    summary: "Change a key",
    ...key,
    body: z.object({
      name: Name.optional(),
      allowed_ips: AllowedIps.optional().describe("Empty: from anywhere"),
      rate_limit_rpm: RateLimit.optional(),
    }),
  }),
  remove: defineRoute({
    id: "deleteApiKey",
    method: "DELETE",
    path: "/api-keys/:id",
    summary: "Revoke a key, at once",
    tag,
    envelope: "data",
    scope: null,
  }),
  rotate: defineRoute({
    id: "rotateApiKey",
    method: "POST",
    path: "/api-keys/:id/rotate",
    summary: "Replace a key; the old secret stops at once",
    ...key,
    body: z.object({ name: Name.optional() }).optional(),
    idempotent: true,
    problems: ["API_KEY_ALREADY_ROTATED"],
  }),
  createToken: defineRoute({
    id: "createScopedToken",
    method: "POST",
    path: "/tokens/scoped",
    summary: "A short-lived token for one user in one workspace",
    tag,
    envelope: "top",
    scope: null,
    status: 201,
    idempotent: true,
    body: z.object({
      user_id: z.string().min(1).max(255),
      workspace_id: z.string(),
      scopes: Scopes.optional(),
      expires_in_seconds: z.coerce.number().int().min(1).max(day).default(900),
    }),
  }),
  listTokens: defineRoute({
    id: "listScopedTokens",
    method: "GET",
    path: "/tokens/scoped",
    summary: "Tokens that are in force",
    tag,
    envelope: "top",
    scope: null,
    query: z.looseObject({
      workspace_id: z.string().optional(),
      before: z.string().optional(),
      limit: queryInt(1, 200, 50),
    }),
  }),
  removeToken: defineRoute({
    id: "revokeScopedToken",
    method: "DELETE",
    path: "/tokens/scoped/:id",
    summary: "Revoke a token, at once",
    tag,
    envelope: "top",
    scope: null,
    body: NoBody,
  }),
} as const;
