import { PlatformError, allScopes, keyRoutes as r, presets, type CreateApiKey } from "@platform/contract";
import { query, queryOne, transaction } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import {
  addressesFor,
  assertAddresses,
  assertKeyType,
  assertKnownScopes,
  assertScopes,
  covers,
  expiryFor,
  workspaceFor,
} from "./rights.ts";
import type { ApiKeyRow } from "./row.ts";
import { delegator, insertKey, keyView, ownKey, revokeIn, visibleKey, type NewKey } from "./store.ts";

const dayMs = 86_400_000;

const withSecret = (row: ApiKeyRow, secret: string) => ({ ...keyView(row), key: secret, token: secret });

const keyEvent = (row: ApiKeyRow, what: string) => ({
  tenantId: row.tenant_id,
  workspaceId: row.workspace_id,
  type: `api_key.${what}`,
  resourceType: "api_key",
  resourceId: row.id,
  data: { id: row.id, name: row.name, key_type: row.key_type },
});

/** Scopes asked for by list or by preset; without either those of the creator. */
function scopesOf(creator: ApiKeyRow, wanted: Pick<CreateApiKey, "scopes" | "preset">): readonly string[] {
  const preset = wanted.preset === undefined ? null : presets.find(({ name }) => name === wanted.preset);
  if (preset === undefined) {
    throw new PlatformError(
      "VALIDATION_FAILED",
      `preset: "${wanted.preset!.slice(0, 100)}" does not exist. Use one of ${presets.map(({ name }) => name).join(", ")}.`,
      { errors: { preset: ["does not exist"] } },
    );
  }
  const asked = [...new Set([...(wanted.scopes ?? []), ...(preset?.scopes ?? [])])];
  if (asked.length === 0 && wanted.scopes === undefined) return creator.scopes ?? allScopes;
  if (asked.length === 0) {
    throw new PlatformError("VALIDATION_FAILED", "scopes: name at least one scope, or leave the field out.", {
      errors: { scopes: ["is empty"] },
    });
  }
  assertKnownScopes(asked);
  return asked;
}

async function createKey(platform: Platform, call: Call<typeof r.create>) {
  const { caller, body } = call;
  const creator = await delegator(platform.pool, caller);
  const scopes = scopesOf(creator, body);
  assertKeyType(creator, body.key_type);
  assertScopes(creator, scopes);
  const wantedEnd =
    body.expires_at !== undefined
      ? new Date(body.expires_at)
      : body.expires_in_days !== undefined
        ? new Date(Date.now() + body.expires_in_days * dayMs)
        : null;
  const key: NewKey = {
    id: call.idFor("key"),
    name: body.name,
    key_type: body.key_type,
    kind: "key",
    scopes,
    workspace_id: await workspaceFor(platform.pool, caller, body.workspace_id),
    external_user_id: null,
    allowed_ips: addressesFor(creator, body.allowed_ips),
    rate_limit_rpm: body.rate_limit_rpm ?? creator.rate_limit_rpm,
    expires_at: expiryFor(creator, wantedEnd),
  };
  return store(platform, call as unknown as Call, key);
}

async function createForUser(platform: Platform, call: Call<typeof r.createScoped>) {
  const { caller, body } = call;
  const creator = await delegator(platform.pool, caller);
  const scopes = scopesOf(creator, body);
  assertScopes(creator, scopes);
  return store(platform, call as unknown as Call, {
    id: call.idFor("key"),
    name: body.label ?? `Key for ${body.external_user_id}`.slice(0, 200),
    key_type: "user",
    kind: "key",
    scopes,
    workspace_id: await workspaceFor(platform.pool, caller, body.workspace_id),
    external_user_id: body.external_user_id,
    allowed_ips: addressesFor(creator, undefined),
    rate_limit_rpm: creator.rate_limit_rpm,
    expires_at: expiryFor(creator, body.expires_at === undefined ? null : new Date(body.expires_at)),
  });
}

async function store(platform: Platform, call: Call, key: NewKey) {
  const { row, secret } = await transaction(platform.pool, async (db) => {
    const stored = await insertKey(db, call.caller, key);
    await recordIn(db, keyEvent(stored.row, "created"));
    return stored;
  });
  platform.signals.announce("events");
  return withSecret(row, secret);
}

/** The new key takes over everything but the secret and the id. */
async function rotate(platform: Platform, call: Call<typeof r.rotate>) {
  const { caller, params, body } = call;
  const newId = call.idFor("rotated");
  const result = await transaction(platform.pool, async (db) => {
    const { id } = await visibleKey(db, caller, params["id"]!);
    const old = (await queryOne<ApiKeyRow>(db, "select * from api_keys where id = $1 for update", [id]))!;
    if (old.rotated_at) {
      const mine = await queryOne<ApiKeyRow>(db, "select * from api_keys where id = $1 and tenant_id = $2", [
        newId,
        caller.tenantId,
      ]);
      if (!mine)
        throw new PlatformError(
          "API_KEY_ALREADY_ROTATED",
          "This key was rotated before. Use the key that took its place, or create a new one.",
        );
    } else if (old.revoked_at) {
      throw new PlatformError("CONFLICT", "The key was revoked and cannot be rotated. Create a new one.");
    }
    await revokeIn(db, old.id, true);
    const stored = await insertKey(db, caller, { ...old, id: newId, name: body?.name ?? old.name });
    await recordIn(db, keyEvent(stored.row, "rotated"));
    return stored;
  });
  platform.signals.announce("events");
  return { ...withSecret(result.row, result.secret), rotated_from: params["id"] };
}

async function updateKey(platform: Platform, call: Call<typeof r.update>) {
  const { caller, body } = call;
  const row = await visibleKey(platform.pool, caller, call.params["id"]!);
  if (row.revoked_at) throw new PlatformError("CONFLICT", "The key was revoked. Create a new one.");
  const own = await ownKey(platform.pool, caller);
  // Its own limits are set by whoever made it: a key must not widen itself.
  if (
    row.id === own.id &&
    (body.allowed_ips !== undefined || body.rate_limit_rpm !== undefined) &&
    own.scopes !== null
  ) {
    throw new PlatformError("FORBIDDEN", "A key cannot change its own limits. Use the key that created it.");
  }
  if (body.allowed_ips) assertAddresses(body.allowed_ips);
  const addresses = body.allowed_ips === undefined ? row.allowed_ips : addressesFor(own, body.allowed_ips);
  const updated = await queryOne<ApiKeyRow>(
    platform.pool,
    "update api_keys set name = $2, allowed_ips = $3, rate_limit_rpm = $4 where id = $1 returning *",
    [row.id, body.name ?? row.name, addresses, body.rate_limit_rpm ?? row.rate_limit_rpm],
  );
  return keyView(updated!);
}

export function keyHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  return [
    handler(r.list, async ({ caller, query: filter }) => {
      const own = await ownKey(pool, caller);
      const rows = await query<ApiKeyRow>(
        pool,
        `select * from api_keys where tenant_id = $1 and kind = 'key' and ($2 or revoked_at is null)
           and ($3::text is null or workspace_id::text = $3) order by created_at desc, id desc limit 1000`,
        [caller.tenantId, filter.all === "true" || filter.all === "1", filter.workspace_id ?? null],
      );
      const mayManage = own.kind === "key" && own.external_user_id === null;
      const visible = rows.filter((row) => row.id === own.id || (mayManage && covers(own, row)));
      return { data: visible.slice(0, filter.limit).map(keyView) };
    }),
    handler(r.presets, async () => presets),
    handler(r.get, async ({ caller, params }) => keyView(await visibleKey(pool, caller, params["id"]!))),
    handler(r.create, async (call) => createKey(platform, call)),
    handler(r.createScoped, async (call) => createForUser(platform, call)),
    handler(r.update, async (call) => updateKey(platform, call)),
    handler(r.remove, async ({ caller, params }) => {
      const row = await visibleKey(pool, caller, params["id"]!);
      await transaction(pool, async (db) => {
        await revokeIn(db, row.id);
        if (!row.revoked_at) await recordIn(db, keyEvent(row, "revoked"));
      });
      platform.signals.announce("events");
      return { id: row.id, status: "revoked", deleted: true };
    }),
    handler(r.rotate, async (call) => rotate(platform, call)),
  ];
}
