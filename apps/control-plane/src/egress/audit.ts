import { PlatformError } from "@platform/contract";
import { query } from "@platform/postgres";
import { derivedId, type Caller } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { ownedBy } from "../tenants/index.ts";
import { ownTarget } from "./store.ts";

interface Filter {
  readonly limit: number;
  readonly sandbox_id?: string | undefined;
  readonly resource_id?: string | undefined;
  readonly host?: string | undefined;
  readonly action?: string | undefined;
}

/** Sandboxes that one answer looks at, the last used first. */
const mostSandboxes = 50;

/**
 * Connections that sandboxes tried, as their hosts saw them: the last 500 of each that still exists.
 *
 * @throws PlatformError HOST_UNAVAILABLE: that nobody could look is not the same as nothing
 */
export async function egressAudit(platform: Platform, caller: Caller, filter: Filter) {
  const conditions = ownedBy(caller).raw("state in ('running', 'paused')");
  const wanted = filter.sandbox_id ?? filter.resource_id;
  if (wanted) conditions.add("id = $?", (await ownTarget(platform.pool, caller, wanted)).id);
  const sandboxes = await query<{ id: string; box_key: string }>(
    platform.pool,
    `select id, box_key from sandboxes where ${conditions.sql} order by last_used_at desc limit ${mostSandboxes}`,
    conditions.values,
  );
  const rows = await Promise.all(
    sandboxes.map(async ({ id, box_key }) => {
      const attempts = await platform.host
        .egress(box_key, AbortSignal.timeout(10_000))
        .catch((cause: unknown) => {
          throw new PlatformError("HOST_UNAVAILABLE", "The sandboxes' machine does not answer now. Retry.", {
            retryAfterMs: 2_000,
            cause,
          });
        });
      return (attempts ?? []).map((attempt) => ({
        id: derivedId(id, attempt.at, attempt.host, String(attempt.port)),
        inserted_at: attempt.at,
        host: attempt.host,
        port: attempt.port,
        action: attempt.outcome === "ALLOWED" ? "allow" : "deny",
        reason: attempt.outcome,
        sandbox_id: id,
        resource_type: "sandbox",
        resource_id: id,
      }));
    }),
  );
  return rows
    .flat()
    .filter(
      (row) => (!filter.host || row.host === filter.host) && (!filter.action || row.action === filter.action),
    )
    .sort((first, second) => second.inserted_at.localeCompare(first.inserted_at))
    .slice(0, filter.limit);
}
