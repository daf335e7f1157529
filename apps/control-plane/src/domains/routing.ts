import type { RouteTarget } from "@platform/edge-api";
import { queryOne, transaction, type Queryable } from "@platform/postgres";
import { acknowledged, lockRoutes, putRoute, removeRoutes } from "../edges/index.ts";
import type { Platform } from "../platform.ts";
import { deploymentHostname, tenantById } from "../tenants/index.ts";
import { companionOf } from "./hostname.ts";
import { holderOf, type DomainRow } from "./store.ts";

const ackTimeoutMs = 5_000;

/** Before the first promote there is nothing to serve yet; the deployment then moves every name at once. */
const nothingYet: RouteTarget = { type: "page", page: "starting", detail: null };

interface Current {
  readonly target: RouteTarget;
  readonly release_id: string | null;
}

/** Where the deployment's own name leads now; null when the deployment is gone. */
async function currentOf(db: Queryable, row: DomainRow): Promise<Current | null> {
  const deployment = await queryOne<{ slug: string }>(
    db,
    "select slug from deployments where id = $1 and desired <> 'deleted'",
    [row.deployment_id],
  );
  if (!deployment) return null;
  const tenant = (await tenantById(db, row.tenant_id))!;
  const route = await queryOne<Current>(
    db,
    "select target, release_id from routes where hostname = $1 and deployment_id = $2 and target is not null",
    [deploymentHostname(tenant, deployment.slug), row.deployment_id],
  );
  return route ?? { target: nothingYet, release_id: null };
}

/** What the row wants under its own name and under the one with or without `www.`. */
function wanted(row: DomainRow, current: Current): Record<string, RouteTarget> {
  const companion = companionOf(row.hostname);
  const isWww = row.hostname.startsWith("www.");
  const redirect = (hostname: string): RouteTarget => ({ type: "redirect", hostname });
  if (row.redirect_policy === "none") return { [row.hostname]: current.target };
  const canonicalIsWww = row.redirect_policy === "apex_to_www";
  if (canonicalIsWww === isWww)
    // Whoever proves NAME may speak for www.NAME below it, but not the other way round.
    return isWww
      ? { [row.hostname]: current.target }
      : { [row.hostname]: current.target, [companion]: redirect(row.hostname) };
  return isWww
    ? { [row.hostname]: redirect(companion) }
    : { [row.hostname]: redirect(companion), [companion]: current.target };
}

async function applyRow(db: Queryable, row: DomainRow): Promise<void> {
  const current = row.state === "verified" && row.deployment_id ? await currentOf(db, row) : null;
  const routes = current ? wanted(row, current) : {};
  for (const hostname of [row.hostname, companionOf(row.hostname)]) {
    const holder = await holderOf(db, hostname);
    // A name with a claim of its own is that claim's alone.
    if (holder && holder.id !== row.id) continue;
    const target = routes[hostname];
    if (!target)
      await removeRoutes(db, "hostname = $1 and kind = 'custom' and tenant_id = $2", [
        hostname,
        row.tenant_id,
      ]);
    else
      await putRoute(db, {
        hostname,
        tenantId: row.tenant_id,
        kind: "custom",
        target,
        deploymentId: row.deployment_id,
        releaseId: current!.release_id,
      });
  }
}

/** Brings the routes of a domain in line with its row; returns when every live edge has them in force. */
export async function routeDomain(platform: Platform, id: string): Promise<void> {
  const version = await transaction(platform.pool, async (db) => {
    // Before reading where the deployment is: a promote that moves it waits, or has moved it already.
    await lockRoutes(db);
    const row = (await queryOne<DomainRow>(db, "select * from domains where id = $1", [id]))!;
    const companion = await holderOf(db, companionOf(row.hostname));
    await applyRow(db, row);
    if (companion && companion.tenant_id === row.tenant_id) await applyRow(db, companion);
    if (row.deployment_id)
      await db.query("update deployments set next_look_at = now() where id = $1", [row.deployment_id]);
    // A removal has a version too, and nobody else can have made one since the lock.
    const newest = await queryOne<{ v: string }>(db, "select coalesce(max(version), 0) as v from routes");
    return Number(newest!.v);
  });
  platform.signals.announce("routes", "work:deployments");
  await acknowledged(platform, version, ackTimeoutMs);
}
