import { BlockList, isIP } from "node:net";
import type { FastifyRequest } from "fastify";
import { PlatformError, type RouteDefinition } from "@platform/contract";
import { queryOne } from "@platform/postgres";
import type { Caller } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { hashSecret } from "./secret.ts";

interface KeyRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly tenant_slug: string;
  readonly tenant_domain: string;
  readonly tenant_preview_domain: string | null;
  readonly name: string;
  readonly key_type: string;
  readonly scopes: string[] | null;
  readonly workspace_id: string | null;
  readonly external_user_id: string | null;
  readonly allowed_ips: string[] | null;
  readonly rate_limit_rpm: number | null;
  readonly expires_at: Date | null;
  readonly revoked_at: Date | null;
}

const refused = (message: string) => new PlatformError("UNAUTHENTICATED", message);

function credentialOf(request: FastifyRequest): string | null {
  const header = request.headers.authorization;
  if (header?.toLowerCase().startsWith("bearer ")) return header.slice(7).trim();
  const apiKey = request.headers["x-api-key"];
  return typeof apiKey === "string" ? apiKey : null;
}

function isAllowedAddress(allowed: readonly string[], address: string): boolean {
  const list = new BlockList();
  for (const entry of allowed) {
    const [net, bits] = entry.split("/");
    const family = isIP(net!) === 6 ? "ipv6" : "ipv4";
    if (isIP(net!) === 0) continue;
    if (bits === undefined) list.addAddress(net!, family);
    else list.addSubnet(net!, Number(bits), family);
  }
  return list.check(address, isIP(address) === 6 ? "ipv6" : "ipv4");
}

/** Counts requests a key makes in the running minute, in this process. */
class MinuteCounter {
  #minute = 0;
  readonly #counts = new Map<string, number>();
  next(id: string): number {
    const minute = Math.floor(Date.now() / 60_000);
    if (minute !== this.#minute) {
      this.#minute = minute;
      this.#counts.clear();
    }
    const count = (this.#counts.get(id) ?? 0) + 1;
    this.#counts.set(id, count);
    return count;
  }
}

const selectKey = `select k.*, t.slug as tenant_slug, t.domain as tenant_domain, t.preview_domain as tenant_preview_domain from api_keys k join tenants t on t.id = k.tenant_id`;

export function createAuthenticator(platform: Platform) {
  const { pool } = platform;
  const counter = new MinuteCounter();
  const seen = new Map<string, number>();

  async function find(request: FastifyRequest, route: RouteDefinition): Promise<KeyRow> {
    const secret = credentialOf(request);
    const ticket = (request.query as Record<string, unknown> | undefined)?.["ticket"];
    if (secret) {
      const row = await queryOne<KeyRow>(pool, `${selectKey} where k.hash = $1`, [hashSecret(secret)]);
      if (!row) throw refused("The key is not known. Check that it was copied whole, or create a new one.");
      return row;
    }
    if (route.stream && typeof ticket === "string") {
      const row = await queryOne<KeyRow>(
        pool,
        `${selectKey} join stream_tickets s on s.key_id = k.id where s.hash = $1 and s.expires_at > now()`,
        [hashSecret(ticket)],
      );
      if (!row) throw refused("The ticket is not known or is over. Ask for a new one at POST /sse/ticket.");
      return row;
    }
    throw refused("No credential was sent. Send the header Authorization: Bearer msk_….");
  }

  function check(row: KeyRow, request: FastifyRequest): void {
    if (row.revoked_at) throw refused("The key was revoked. Use another one.");
    if (row.expires_at && row.expires_at.getTime() <= Date.now())
      throw refused("The key has expired. Create a new one.");
    if (row.allowed_ips?.length && !isAllowedAddress(row.allowed_ips, request.ip))
      throw new PlatformError("FORBIDDEN", "The key may not be used from this address.");
    if (row.rate_limit_rpm && counter.next(row.id) > row.rate_limit_rpm) {
      throw new PlatformError(
        "RATE_LIMITED",
        `The key allows ${row.rate_limit_rpm} requests a minute. Slow down.`,
        { retryAfterMs: 60_000 - (Date.now() % 60_000) },
      );
    }
    const wanted = request.headers["x-miosa-tenant"];
    if (
      typeof wanted === "string" &&
      wanted !== "" &&
      wanted !== row.tenant_id &&
      wanted !== row.tenant_slug
    ) {
      throw new PlatformError(
        "INVALID_TENANT_CONTEXT",
        "The key belongs to another tenant than the header X-MIOSA-Tenant names. Leave the header out.",
      );
    }
    const host = request.hostname.toLowerCase();
    const own = [`api.${row.tenant_domain}`, `api.sandbox.${row.tenant_preview_domain ?? row.tenant_domain}`];
    if (host.startsWith("api.") && !own.includes(host))
      throw refused("The key is not known here. Use the host it was created for.");
  }

  return async (request: FastifyRequest, route: RouteDefinition): Promise<Caller> => {
    const row = await find(request, route);
    check(row, request);
    // Once a minute is exact enough for "last used", and keeps reads from writing.
    if ((seen.get(row.id) ?? 0) < Date.now() - 60_000) {
      seen.set(row.id, Date.now());
      await pool.query("update api_keys set last_used_at = now() where id = $1", [row.id]);
    }
    return {
      tenantId: row.tenant_id,
      keyId: row.id,
      keyName: row.name,
      keyType: row.key_type,
      scopes: row.scopes,
      workspaceId: row.workspace_id,
      externalUserId: row.external_user_id,
    };
  };
}
