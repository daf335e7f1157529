import type { RunSettings } from "@platform/contract";
import type { Canary, OtherRelease, RouteTarget } from "@platform/edge-api";
import { query, transaction, type Queryable } from "@platform/postgres";
import { inForce as everywhereInForce, lockRoutes, putRoute } from "../edges/index.ts";
import type { Platform } from "../platform.ts";
import { deploymentHostname, tenantById } from "../tenants/index.ts";
import type { DeploymentRow } from "./store.ts";

export const hostnameOf = async (platform: Platform, row: DeploymentRow) =>
  deploymentHostname((await tenantById(platform.pool, row.tenant_id))!, row.slug);

/** Custom host names follow the deployment: the same target under each, but for those that redirect. */
async function customHostnames(db: Queryable, row: DeploymentRow): Promise<string[]> {
  const rows = await query<{ hostname: string }>(
    db,
    "select hostname from routes where deployment_id = $1 and kind = 'custom' and target->>'type' <> 'redirect'",
    [row.id],
  );
  return rows.map((one) => one.hostname);
}

/** Moves every host name of the deployment at once. @returns the version to be acknowledged */
export async function pointAt(
  platform: Platform,
  row: DeploymentRow,
  target: RouteTarget,
  releaseId: string | null,
): Promise<number> {
  const hostname = await hostnameOf(platform, row);
  const version = await transaction(platform.pool, async (db) => {
    // Before the look: a name that is assigned or given up at this moment is not missed, nor brought back.
    await lockRoutes(db);
    const custom = await customHostnames(db, row);
    let newest = 0;
    for (const [name, kind] of [
      [hostname, "deployment"] as const,
      ...custom.map((one) => [one, "custom"] as const),
    ]) {
      newest = Math.max(
        newest,
        await putRoute(db, {
          hostname: name,
          tenantId: row.tenant_id,
          kind,
          target,
          deploymentId: row.id,
          releaseId,
        }),
      );
    }
    return newest;
  });
  platform.signals.announce("routes");
  return version;
}

/**
 * Waits until no edge serves anything older.
 *
 * @returns ids of edges that did not acknowledge and are fenced
 * @throws Error when one of them could not be fenced: the step is tried again, and nothing counts as done
 */
export async function inForce(platform: Platform, version: number, signal: AbortSignal): Promise<string[]> {
  const { fenced, unfenced } = await everywhereInForce(platform, version, signal);
  if (unfenced.length > 0)
    throw new Error(
      `edges ${unfenced.join(", ")} neither answer nor could be fenced; is their host reachable?`,
    );
  return fenced;
}

interface Led {
  readonly releaseId: string;
  readonly target: OtherRelease["target"];
  readonly canary?: Canary;
  readonly fallback?: OtherRelease;
}

export const isHeld = (row: DeploymentRow): boolean =>
  row.traffic === "hold" && (row.traffic_until === null || row.traffic_until.getTime() > Date.now());

/** True when the route leads to what serves, not to a page or a wait. */
export const isOpen = (row: DeploymentRow): boolean => row.traffic !== "maintenance" && !isHeld(row);

/** Leads traffic to a release, or to what takes its place while the deployment is closed. */
export async function leadTo(
  platform: Platform,
  row: DeploymentRow,
  settings: RunSettings,
  led: Led,
): Promise<number> {
  if (row.traffic === "maintenance")
    return pointAt(
      platform,
      row,
      { type: "page", page: "maintenance", detail: row.traffic_message },
      led.releaseId,
    );
  if (isHeld(row)) return pointAt(platform, row, { type: "hold" }, led.releaseId);
  const shared = {
    ...(led.canary ? { canary: led.canary } : {}),
    ...(led.fallback ? { fallback: led.fallback } : {}),
  };
  const target: RouteTarget =
    led.target.type === "static"
      ? { ...led.target, ...shared }
      : {
          ...led.target,
          rewriteHost: null,
          accessSha256: null,
          ...shared,
          ...(settings.websocket_drain === "close"
            ? { webSocketCloseMs: settings.websocket_drain_sec * 1000 }
            : {}),
        };
  return pointAt(platform, row, target, led.releaseId);
}
