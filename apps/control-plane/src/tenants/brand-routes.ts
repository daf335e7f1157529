import type { Queryable } from "@platform/postgres";

/** The lock under which all versions of routes are given out, so that they become visible in their order. */
export async function lockRoutes(db: Queryable): Promise<void> {
  await db.query("select pg_advisory_xact_lock(724002)");
}

/**
 * Brands travel with the routes of the tenant's API, which therefore get new versions: every edge then
 * asks for what changed. A tenant without such a route has no edge to tell.
 */
export async function bumpRoutesIn(db: Queryable, tenantId: string): Promise<void> {
  await lockRoutes(db);
  await db.query(
    `update routes set version = nextval('route_versions') where hostname =
       (select hostname from routes where tenant_id = $1 and kind = 'api' and target is not null order by hostname limit 1)`,
    [tenantId],
  );
}
