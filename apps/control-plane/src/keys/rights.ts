import { BlockList, isIP } from "node:net";
import { PlatformError, allScopes, allows, notFound } from "@platform/contract";
import { queryOne, type Queryable } from "@platform/postgres";
import type { Caller } from "../http/index.ts";
import { isUuid } from "../tenants/index.ts";
import type { ApiKeyRow } from "./row.ts";

const ranks: Record<string, number> = { user: 0, tenant: 1, platform: 2, admin: 3 };
const rankOf = (keyType: string): number => ranks[keyType] ?? 0;
const resources = new Set(allScopes.map((scope) => scope.split(":")[0]!));

export const isKnownScope = (scope: string): boolean =>
  scope === "*" || allScopes.includes(scope) || (scope.endsWith(":*") && resources.has(scope.slice(0, -2)));

/** @throws PlatformError VALIDATION_FAILED naming every scope that does not exist */
export function assertKnownScopes(scopes: readonly string[]): void {
  const unknown = scopes.filter((scope) => !isKnownScope(scope));
  if (unknown.length === 0) return;
  throw new PlatformError(
    "VALIDATION_FAILED",
    `Unknown scopes: ${unknown.join(", ").slice(0, 200)}. Use <resource>:<action>, see GET /api-keys/presets.`,
    { errors: { scopes: unknown.map((scope) => `${scope.slice(0, 100)} does not exist`) } },
  );
}

export const excessScopes = (granted: readonly string[] | null, wanted: readonly string[]): string[] =>
  wanted.filter((scope) => !allows(granted, scope));

/** Rights of a key that another one can be measured against. */
export interface Rights {
  readonly scopes: readonly string[] | null;
  readonly key_type: string;
  readonly workspace_id: string | null;
  readonly external_user_id: string | null;
}

/** Whether `own` covers everything that `other` may do. A key sees and changes only such keys. */
export function covers(own: Rights, other: Rights): boolean {
  if (rankOf(other.key_type) > rankOf(own.key_type)) return false;
  if (own.workspace_id !== null && other.workspace_id !== own.workspace_id) return false;
  if (own.external_user_id !== null && other.external_user_id !== own.external_user_id) return false;
  if (own.scopes === null) return true;
  return other.scopes !== null && excessScopes(own.scopes, other.scopes).length === 0;
}

export function assertKeyType(own: Rights, wanted: string): void {
  if (rankOf(wanted) <= rankOf(own.key_type)) return;
  throw new PlatformError(
    "FORBIDDEN",
    `A ${own.key_type} key cannot create a ${wanted} key. Use a key of that type.`,
    {
      details: { required_key_type: wanted },
    },
  );
}

export function assertScopes(own: Rights, wanted: readonly string[]): void {
  const excess = excessScopes(own.scopes, wanted);
  if (excess.length === 0) return;
  throw new PlatformError(
    "FORBIDDEN",
    `This key lacks ${excess.join(", ").slice(0, 200)}, so it cannot give it away. Leave it out, or use a key that has it.`,
    { details: { required_scope: excess[0], invalid_scopes: excess } },
  );
}

function isInside(allowed: readonly string[], entry: string): boolean {
  if (allowed.includes(entry)) return true;
  const family = isIP(entry);
  if (family === 0) return false;
  const list = new BlockList();
  for (const one of allowed) {
    const [net, bits] = one.split("/");
    const kind = isIP(net!) === 6 ? "ipv6" : "ipv4";
    if (bits === undefined) list.addAddress(net!, kind);
    else list.addSubnet(net!, Number(bits), kind);
  }
  return list.check(entry, family === 6 ? "ipv6" : "ipv4");
}

/** @throws PlatformError VALIDATION_FAILED */
export function assertAddresses(entries: readonly string[]): void {
  const bad = entries.filter((entry) => {
    const [net, bits, more] = entry.split("/");
    const family = isIP(net!);
    if (family === 0 || more !== undefined) return true;
    return bits !== undefined && !(Number(bits) >= 0 && Number(bits) <= (family === 4 ? 32 : 128));
  });
  if (bad.length === 0) return;
  throw new PlatformError(
    "VALIDATION_FAILED",
    `allowed_ips: "${bad[0]}" is neither an address nor a range. Write 203.0.113.7 or 203.0.113.0/24.`,
    { errors: { allowed_ips: bad.map((entry) => `${entry} is neither an address nor a range`) } },
  );
}

/** Addresses of the new key: never more than its creator's. */
export function addressesFor(
  creator: ApiKeyRow,
  wanted: readonly string[] | undefined,
): readonly string[] | null {
  const own = creator.allowed_ips?.length ? creator.allowed_ips : null;
  if (!wanted?.length) return own;
  assertAddresses(wanted);
  const outside = own ? wanted.filter((entry) => !isInside(own, entry)) : [];
  if (outside.length > 0) {
    throw new PlatformError(
      "FORBIDDEN",
      `This key may not be used from ${outside[0]}, so it cannot allow it. Leave it out.`,
    );
  }
  return wanted;
}

/**
 * End of the new key's life: never after its creator's.
 *
 * @throws PlatformError VALIDATION_FAILED, FORBIDDEN
 */
export function expiryFor(creator: ApiKeyRow, wanted: Date | null): Date | null {
  if (wanted && wanted.getTime() <= Date.now()) {
    throw new PlatformError("VALIDATION_FAILED", "expires_at is in the past. Give a time that is to come.", {
      errors: { expires_at: ["is in the past"] },
    });
  }
  const end = creator.expires_at;
  if (!end) return wanted;
  if (wanted && wanted > end) {
    throw new PlatformError(
      "FORBIDDEN",
      `This key ends at ${end.toISOString()}; one that it creates cannot last longer.`,
    );
  }
  return wanted ?? end;
}

/** The workspace that a new key is bound to. A bound creator passes its own binding on. */
export async function workspaceFor(
  db: Queryable,
  caller: Caller,
  wanted: string | undefined,
): Promise<string | null> {
  if (!wanted) return caller.workspaceId;
  const row = await queryOne<{ id: string }>(
    db,
    "select id from workspaces where tenant_id = $1 and (id::text = $2 or slug = $2)",
    [caller.tenantId, isUuid(wanted) ? wanted.toLowerCase() : wanted],
  );
  if (!row || (caller.workspaceId !== null && caller.workspaceId !== row.id)) {
    throw notFound(`Workspace ${wanted.slice(0, 100)}`);
  }
  return row.id;
}
