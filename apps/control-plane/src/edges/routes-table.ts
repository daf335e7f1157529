import { PlatformError } from "@platform/contract";
import type { Route, RouteTarget } from "@platform/edge-api";
import { query, transaction, type Queryable } from "@platform/postgres";
import type { Platform } from "../platform.ts";

export interface NewRoute {
  readonly hostname: string;
  readonly tenantId: string;
  readonly kind: Route["kind"];
  readonly target: RouteTarget;
  readonly deploymentId?: string | null;
  readonly releaseId?: string | null;
  readonly sandboxId?: string | null;
}

/** Changes of routes take turns until their transactions end: an edge that has seen 7 must never miss 6. */
export async function lockRoutes(db: Queryable): Promise<void> {
  await db.query("select pg_advisory_xact_lock(724002)");
}

/**
 * Stores where a host name leads. A route that says the same already keeps its version, so that a
 * reconciler may call it at every look.
 *
 * @returns the version that an edge must have applied for this route to be in force there
 */
export async function putRoute(db: Queryable, route: NewRoute): Promise<number> {
  await lockRoutes(db);
  const { rows } = await db.query<{ version: string }>(
    `insert into routes as r (hostname, version, tenant_id, kind, target, deployment_id, release_id, sandbox_id)
     values ($1, nextval('route_versions'), $2, $3, $4, $5, $6, $7)
     on conflict (hostname) do update set
       version = case when (r.target, r.kind, r.deployment_id, r.release_id, r.sandbox_id, r.tenant_id)
                   is not distinct from (excluded.target, excluded.kind, excluded.deployment_id, excluded.release_id, excluded.sandbox_id, excluded.tenant_id)
                 then r.version else excluded.version end,
       tenant_id = excluded.tenant_id, kind = excluded.kind, target = excluded.target, deployment_id = excluded.deployment_id,
       release_id = excluded.release_id, sandbox_id = excluded.sandbox_id
       where r.target is null or r.kind <> 'api' or excluded.kind = 'api'
     returning version`,
    [
      route.hostname,
      route.tenantId,
      route.kind,
      route.target,
      route.deploymentId ?? null,
      route.releaseId ?? null,
      route.sandboxId ?? null,
    ],
  );
  // Slugs are the tenant's to choose, but none may take the place of its API.
  if (!rows[0])
    throw new PlatformError("NAME_TAKEN", `The name ${route.hostname} is in use. Choose another slug.`);
  return Number(rows[0].version);
}

/**
 * Removes routes; the row stays as a tombstone so that every edge learns of it.
 *
 * @returns the version to be acknowledged; 0 when there was nothing to remove
 */
export async function removeRoutes(
  db: Queryable,
  where: string,
  params: readonly unknown[],
): Promise<number> {
  await db.query("select pg_advisory_xact_lock(724002)");
  const { rows } = await db.query<{ version: string }>(
    `update routes set target = null, version = nextval('route_versions') where (${where}) and target is not null returning version`,
    [...params],
  );
  return Math.max(0, ...rows.map((row) => Number(row.version)));
}

interface PreviewTarget {
  readonly hostname: string;
  readonly port: number;
  readonly access_sha256: string | null;
  readonly grants: { sha256: string; until: number }[];
  /** Its pages are listened to: by its own word, its sandbox's, the tenant's, else yes. */
  readonly console: boolean;
}

/** Where each preview leads and who may see it, shares included. */
const previewRows = (db: Queryable, sandboxId: string) =>
  query<PreviewTarget>(
    db,
    `select p.hostname, p.port, p.access_sha256, coalesce((select jsonb_agg(jsonb_build_object('sha256', s.token_sha256,
         'until', floor(extract(epoch from s.expires_at) * 1000)) order by s.created_at, s.id) from preview_shares s
       where p.access_sha256 is not null and s.sandbox_id = p.sandbox_id and (s.preview_id is null or s.preview_id = p.id) and s.expires_at > now()), '[]') as grants,
       coalesce(p.console, coalesce(b.metadata -> 'browser_console', t.policy -> 'browser_console', 'true') <> 'false') as console
     from previews p join sandboxes b on b.id = p.sandbox_id join tenants t on t.id = p.tenant_id where p.sandbox_id = $1`,
    [sandboxId],
  );

/**
 * Points the previews of a sandbox at its box, or, while it is paused, at nothing that runs: the edge
 * then holds the visitor and asks for a wake-up. The URLs stay the same.
 */
export async function pointPreviews(
  platform: Platform,
  sandbox: { id: string; tenant_id: string; box_key: string },
  to: "boxes" | "wake",
): Promise<void> {
  await transaction(platform.pool, async (db) => {
    await pointSandboxRoute(db, platform, sandbox, to === "wake" ? "paused" : "running");
    await routePreviews(db, platform, sandbox, to);
  });
  platform.signals.announce("routes");
}

/**
 * The same inside a transaction, for one host name or all.
 *
 * @returns the version that an edge must have applied for all of them to be in force there
 */
export async function routePreviews(
  db: Queryable,
  platform: Platform,
  sandbox: { id: string; tenant_id: string; box_key: string },
  to: "boxes" | "wake",
  only: string | null = null,
): Promise<number> {
  // Read where it is written: a share that ends meanwhile must not come back with an older look.
  await lockRoutes(db);
  let version = 0;
  for (const { hostname, port, access_sha256: accessSha256, grants, console } of await previewRows(
    db,
    sandbox.id,
  )) {
    if (only !== null && hostname !== only) continue;
    const access = {
      accessSha256,
      ...(grants.length > 0 ? { grants } : {}),
      ...(console ? { console } : {}),
    };
    const target: NewRoute["target"] =
      to === "wake"
        ? { type: "wake", ...access }
        : {
            type: "boxes",
            upstreams: [{ hostUrl: platform.host.address.url, boxKey: sandbox.box_key, port }],
            rewriteHost: null,
            ...access,
          };
    const put = await putRoute(db, {
      hostname,
      tenantId: sandbox.tenant_id,
      kind: "preview",
      target,
      sandboxId: sandbox.id,
    });
    version = Math.max(version, put);
  }
  return version;
}

/** The route for every port of the sandbox, where it has one, keeps its rules and follows the box. */
async function pointSandboxRoute(
  db: Queryable,
  platform: Platform,
  sandbox: { id: string; box_key: string },
  state: "running" | "paused",
): Promise<void> {
  await lockRoutes(db);
  const upstream = { hostUrl: platform.host.address.url, boxKey: sandbox.box_key };
  await db.query(
    `update routes set version = nextval('route_versions'), target = target || $2::jsonb
     where sandbox_id = $1 and kind = 'sandbox' and target is not null and not target @> $2::jsonb`,
    [sandbox.id, JSON.stringify({ upstream, state })],
  );
}
