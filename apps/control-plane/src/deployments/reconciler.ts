import { faultPoint } from "@platform/daemon";
import { query, transaction, type Queryable } from "@platform/postgres";
import type { RouteTarget } from "@platform/edge-api";
import { inForce, lockRoutes, putRoute, removeRoutes, type InForce } from "../edges/index.ts";
import { record } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { loadRelease, type ReleaseRow } from "../releases/index.ts";
import { deploymentHostname, tenantById } from "../tenants/index.ts";
import { answersThroughEdge } from "./verify.ts";
import {
  ensureInstance,
  provenanceFailure,
  retireInstances,
  removeInstances,
  type InstanceOutcome,
} from "./instances.ts";
import { loadDeployment, type DeploymentRow, type Promotion } from "./store.ts";

const steadyMs = 5_000;

export function createDeploymentStep(platform: Platform) {
  return async (id: string, signal: AbortSignal): Promise<number> => {
    const row = await loadDeployment(platform.pool, id);
    if (!row || row.state === "deleted") return 60_000;
    faultPoint("control-plane.deployment.claimed");
    if (row.desired === "deleted") return remove(platform, row, signal);
    if (row.desired === "stopped") return stop(platform, row, signal);
    if (!row.desired_release_id) return 60_000;
    const release = await loadRelease(platform.pool, row.desired_release_id);
    if (!release?.artifact_sha256) return 60_000;
    return release.kind === "static"
      ? serveStatic(platform, row, release, signal)
      : serveInstances(platform, row, release, signal);
  };
}

const hostnameOf = async (platform: Platform, row: DeploymentRow) =>
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
async function pointAt(
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

async function serveStatic(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
  signal: AbortSignal,
): Promise<number> {
  const refused = isActive(row, release) ? null : await provenanceFailure(platform, release);
  if (refused) return failPromotion(platform, row, release, refused);
  const digest = `sha256:${release.artifact_sha256}`;
  const version = await pointAt(
    platform,
    row,
    { type: "static", digest, spaFallback: release.metadata["spa_fallback"] === true },
    release.id,
  );
  faultPoint("control-plane.deployment.after-route");
  if (isActive(row, release)) return steadyMs;
  const edges = await inForce(platform, version, signal);
  if (edges.unfenced.length > 0) return failPromotion(platform, row, release, notFenced(edges));
  const seen = await answersThroughEdge(platform, await hostnameOf(platform, row), "/", signal);
  if (!seen.ok)
    return failPromotion(platform, row, release, {
      code: "PROMOTE_FAILED",
      message: "The static release does not answer through its public name. Traffic stays where it was.",
      details: { http_status: seen.status },
    });
  await activate(platform, row, release, edges.fenced, false);
  await retireInstances(platform, row.id, null, signal);
  return steadyMs;
}

async function serveInstances(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
  signal: AbortSignal,
): Promise<number> {
  const outcome: InstanceOutcome = await ensureInstance(platform, row, release, signal);
  if (outcome.type === "waiting") return outcome.againInMs;
  if (outcome.type === "failed") {
    if (isActive(row, release)) return replaceLater(platform, row, outcome.failure);
    return failPromotion(platform, row, release, outcome.failure);
  }
  const { instance } = outcome;
  faultPoint("control-plane.deployment.instance-healthy");
  const target: RouteTarget = {
    type: "boxes",
    upstreams: [{ hostUrl: platform.host.address.url, boxKey: instance.box_key, port: instance.port! }],
    rewriteHost: null,
    accessSha256: null,
  };
  const version = await pointAt(platform, row, target, release.id);
  faultPoint("control-plane.deployment.after-route");
  const edges = await inForce(platform, version, signal);
  if (!isActive(row, release)) {
    if (edges.unfenced.length > 0) return failPromotion(platform, row, release, notFenced(edges));
    const seen = await answersThroughEdge(
      platform,
      await hostnameOf(platform, row),
      release.health_check_path ?? "/",
      signal,
    );
    if (!seen.ok)
      return failPromotion(platform, row, release, {
        code: "PROMOTE_FAILED",
        message: "The release answers inside but not through its public name. Traffic stays where it was.",
        details: { http_status: seen.status },
      });
    faultPoint("control-plane.deployment.before-active");
    await activate(platform, row, release, edges.fenced, outcome.wasWarm);
  } else if (row.state !== "running")
    await setState(platform, row, { state: "running", error_message: null });
  await retireInstances(platform, row.id, instance, signal);
  return steadyMs;
}

const notFenced = ({ unfenced }: InForce) => ({
  code: "PROMOTE_FAILED" as const,
  message:
    "An edge does not answer and could not be kept from serving the previous release. Traffic stays where it was; see that the edges reach the control plane, then promote again.",
  details: { edges: unfenced },
});

const isActive = (row: DeploymentRow, release: ReleaseRow) =>
  row.active_release_id === release.id && row.state === "running" && row.promotion?.state !== "running";

async function setState(
  platform: Platform,
  row: DeploymentRow,
  set: Record<string, unknown>,
): Promise<boolean> {
  const names = Object.keys(set);
  const result = await platform.pool.query(
    `update deployments set updated_at = now()${names.map((name, index) => `, ${name} = $${index + 3}`).join("")} where id = $1 and generation = $2`,
    [row.id, row.generation, ...Object.values(set)],
  );
  platform.signals.announce(`deployment:${row.id}`);
  return result.rowCount === 1;
}

async function activate(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
  silentEdges: string[],
  warm: boolean,
): Promise<void> {
  const startedAt = row.promotion?.started_at ?? new Date().toISOString();
  const promotion: Promotion = {
    release_id: release.id,
    state: "succeeded",
    started_at: startedAt,
    finished_at: new Date().toISOString(),
    took_ms: Date.now() - Date.parse(startedAt),
    warm,
    ...(row.promotion?.request ? { request: row.promotion.request } : {}),
    ...(silentEdges.length > 0 ? { silent_edges: silentEdges } : {}),
  };
  const stored = await setState(platform, row, {
    state: "running",
    active_release_id: release.id,
    active_version_id: release.deployment_version_id,
    running_artifact_sha256: release.artifact_sha256,
    error_message: null,
    promotion,
    promoted_at: new Date(),
  });
  if (!stored) return;
  await platform.pool.query("update versions set promoted_at = now() where id = $1", [
    release.deployment_version_id,
  ]);
  await record(
    platform,
    event(row, "deployment.succeeded", {
      release_id: release.id,
      version_id: release.deployment_version_id,
      took_ms: promotion.took_ms,
    }),
  );
}

/** Traffic goes back to (or stays on) what served before. */
async function failPromotion(
  platform: Platform,
  row: DeploymentRow,
  release: ReleaseRow,
  failure: NonNullable<Promotion["failure"]>,
): Promise<number> {
  const promotion: Promotion = {
    release_id: release.id,
    state: "failed",
    started_at: row.promotion?.started_at ?? new Date().toISOString(),
    finished_at: new Date().toISOString(),
    failure,
    ...(row.promotion?.request ? { request: row.promotion.request } : {}),
  };
  const stored = await setState(platform, row, {
    state: row.active_release_id ? row.state : "failed",
    desired_release_id: row.active_release_id,
    error_message: failure.message,
    last_failure: failure,
    promotion,
  });
  if (stored)
    await record(
      platform,
      event(row, "deployment.failed", {
        release_id: release.id,
        code: failure.code,
        message: failure.message,
      }),
    );
  return 0;
}

/** The active release's instance broke and its replacement did not come up: keep trying, and say so. */
async function replaceLater(
  platform: Platform,
  row: DeploymentRow,
  failure: NonNullable<Promotion["failure"]>,
): Promise<number> {
  await setState(platform, row, { error_message: failure.message, last_failure: failure });
  return steadyMs;
}

async function stop(platform: Platform, row: DeploymentRow, signal: AbortSignal): Promise<number> {
  const version = await pointAt(platform, row, { type: "page", page: "stopped", detail: null }, null);
  if (row.state === "stopped") return 60_000;
  await inForce(platform, version, signal);
  await removeInstances(platform, row.id, signal);
  if (await setState(platform, row, { state: "stopped", running_artifact_sha256: null }))
    await record(platform, event(row, "deployment.stopped"));
  return 60_000;
}

async function remove(platform: Platform, row: DeploymentRow, signal: AbortSignal): Promise<number> {
  const version = await transaction(platform.pool, (db) => removeRoutes(db, "deployment_id = $1", [row.id]));
  platform.signals.announce("routes");
  await inForce(platform, version, signal);
  await removeInstances(platform, row.id, signal);
  faultPoint("control-plane.deployment.before-deleted");
  await platform.pool.query(
    "delete from database_links where resource_type = 'deployment' and resource_id = $1",
    [row.id],
  );
  await platform.pool.query("delete from deployment_env where deployment_id = $1", [row.id]);
  if (
    await setState(platform, row, {
      state: "deleted",
      active_release_id: null,
      active_version_id: null,
      running_artifact_sha256: null,
    })
  )
    await record(platform, event(row, "deployment.deleted"));
  return 60_000;
}

const event = (row: DeploymentRow, type: string, data: Record<string, unknown> = {}) => ({
  tenantId: row.tenant_id,
  workspaceId: row.workspace_id,
  type,
  resourceType: "deployment",
  resourceId: row.id,
  data: { id: row.id, name: row.name, slug: row.slug, ...data },
});
