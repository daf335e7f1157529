import { allScopes, keyRoutes as r } from "@platform/contract";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { Conditions, page } from "../tenants/index.ts";
import { addressesFor, assertKnownScopes, covers, excessScopes, workspaceFor } from "./rights.ts";
import type { ApiKeyRow } from "./row.ts";
import { delegator, insertKey, revokeIn, visibleKey } from "./store.ts";

const tokenView = (row: ApiKeyRow) => ({
  id: row.id,
  user_id: row.external_user_id,
  workspace_id: row.workspace_id,
  scopes: row.scopes ?? ["*"],
  expires_at: row.expires_at?.toISOString() ?? null,
  last_used_at: row.last_used_at?.toISOString() ?? null,
  created_at: row.created_at.toISOString(),
});

async function createToken(platform: Platform, call: Call<typeof r.createToken>) {
  const { caller, body } = call;
  const creator = await delegator(platform.pool, caller);
  const scopes = body.scopes ?? creator.scopes ?? allScopes;
  assertKnownScopes(scopes);
  const invalid = excessScopes(creator.scopes, scopes);
  if (invalid.length > 0) {
    // The one refusal whose form clients test for: a text and the list, at the top level.
    call.reply.status(403);
    return {
      error: "The token would have scopes that this key lacks. Leave out those in invalid_scopes.",
      code: "FORBIDDEN",
      invalid_scopes: invalid,
    };
  }
  const end = Date.now() + body.expires_in_seconds * 1000;
  const { row, secret } = await insertKey(platform.pool, caller, {
    id: call.idFor("token"),
    name: `Token for ${body.user_id}`.slice(0, 200),
    key_type: "user",
    kind: "token",
    scopes,
    workspace_id: await workspaceFor(platform.pool, caller, body.workspace_id),
    external_user_id: body.user_id,
    allowed_ips: addressesFor(creator, undefined),
    rate_limit_rpm: creator.rate_limit_rpm,
    expires_at: new Date(Math.min(end, creator.expires_at?.getTime() ?? Infinity)),
  });
  return { ...tokenView(row), token: secret };
}

export function scopedTokenHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  return [
    handler(r.createToken, async (call) => createToken(platform, call)),
    handler(r.listTokens, async ({ caller, query }) => {
      const own = await delegator(pool, caller);
      const conditions = new Conditions()
        .add("tenant_id = $?", caller.tenantId)
        .raw("kind = 'token' and revoked_at is null and expires_at > now()");
      if (caller.workspaceId) conditions.add("workspace_id = $?", caller.workspaceId);
      if (query.workspace_id) conditions.add("workspace_id::text = $?", query.workspace_id);
      const { rows, next_cursor } = await page<ApiKeyRow>(pool, "api_keys", conditions, {
        limit: query.limit,
        cursor: query.before,
      });
      return {
        data: rows.filter((row) => covers(own, row)).map(tokenView),
        next_cursor: next_cursor ?? null,
      };
    }),
    handler(r.removeToken, async ({ caller, params }) => {
      const row = await visibleKey(pool, caller, params["id"]!, "token");
      await revokeIn(pool, row.id);
      return { id: row.id, revoked: true };
    }),
  ];
}
