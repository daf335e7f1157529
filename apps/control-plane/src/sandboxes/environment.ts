import { HostError, type BoxLink } from "@platform/host-api";
import { query } from "@platform/postgres";
import type { Platform } from "../platform.ts";

/** Makes the usual servers listen where they can be reached; the same in sandbox and production. */
export const listenHints: Record<string, string> = { HOST: "0.0.0.0", FASTIFY_ADDRESS: "0.0.0.0" };

interface LinkRow {
  readonly database_id: string;
  readonly env_name: string;
  readonly host_key: string;
  readonly state: string;
  readonly last_error: string | null;
}

/** Links of a sandbox or deployment, and whether each database can be used now. */
export interface Linked {
  readonly env: Record<string, string>;
  readonly links: BoxLink[];
  /** Databases that are not available yet. */
  readonly waitingFor: string[];
  /** Databases that failed, with why. */
  readonly failed: { id: string; reason: string }[];
}

/** The credentials are fetched now, not stored, so that what a box gets is what logs in today. */
export async function linkedDatabases(
  platform: Platform,
  type: "sandbox" | "deployment",
  id: string,
): Promise<Linked> {
  const rows = await query<LinkRow>(
    platform.pool,
    `select l.database_id, l.env_name, d.host_key, d.state, d.last_error from database_links l join databases d on d.id = l.database_id
     where l.resource_type = $1 and l.resource_id = $2 order by l.env_name`,
    [type, id],
  );
  const linked: Linked = { env: {}, links: [], waitingFor: [], failed: [] };
  for (const row of rows) {
    if (row.state === "failed" || row.state === "deleted") {
      linked.failed.push({ id: row.database_id, reason: row.last_error ?? row.state });
      continue;
    }
    if (row.state !== "running") {
      linked.waitingFor.push(row.database_id);
      continue;
    }
    try {
      const credentials = await platform.host.credentials(row.host_key);
      const { pooledUrl, pooledPort } = credentials;
      const share = type === "sandbox" ? "previews" : "production";
      const link = { databaseKey: row.host_key, hostname: credentials.host, share } as const;
      linked.env[row.env_name] = credentials.url;
      linked.links.push({ ...link, port: credentials.port });
      if (pooledUrl !== null && pooledPort !== null) {
        linked.env[`${row.env_name}_POOLED`] = pooledUrl;
        linked.links.push({ ...link, port: pooledPort });
      }
    } catch (error) {
      if (error instanceof HostError && error.code !== "UNREACHABLE") linked.waitingFor.push(row.database_id);
      else throw error;
    }
  }
  return linked;
}

/** Variables given to every new resource in a scope; the narrower scope wins. */
export async function runtimeEnvironment(
  platform: Platform,
  target: "sandbox" | "deployment",
  owner: { tenant_id: string; workspace_id: string | null; project_id: string | null },
): Promise<Record<string, string>> {
  const rows = await query<{ name: string; value_sealed: Buffer }>(
    platform.pool,
    `select name, value_sealed from runtime_env where tenant_id = $1 and enabled and target in ('all', $2)
       and (scope = 'tenant' or (scope = 'workspace' and workspace_id = $3) or (scope = 'project' and project_id = $4))
     order by case scope when 'tenant' then 0 when 'workspace' then 1 else 2 end, (target <> 'all')`,
    [owner.tenant_id, target, owner.workspace_id, owner.project_id],
  );
  return Object.fromEntries(rows.map((row) => [row.name, platform.seal.open(row.value_sealed)]));
}
