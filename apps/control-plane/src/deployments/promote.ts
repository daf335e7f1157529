import { PlatformError, notFound, type ProblemCode } from "@platform/contract";
import { query, queryOne } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import { loadRelease, type ReleaseRow } from "../releases/index.ts";
import { loadDeployment, wantDeployment, type DeploymentRow, type Promotion } from "./store.ts";

const promoteTimeoutMs = 120_000;

/**
 * Points the deployment at a release and waits until an answer of it was seen through the public name.
 * Nothing is built. Traffic stays where it was when the release does not become healthy.
 *
 * @throws PlatformError RELEASE_NOT_READY, PROMOTE_FAILED
 */
export async function promote(
  platform: Platform,
  deploymentId: string,
  releaseId: string,
  request?: string,
): Promise<DeploymentRow> {
  const release = await loadRelease(platform.pool, releaseId);
  if (!release || release.deployment_id !== deploymentId) throw notFound(`Release ${releaseId}`);
  if (release.state !== "ready" || !release.artifact_sha256) {
    throw new PlatformError(
      "RELEASE_NOT_READY",
      `Release ${releaseId} is ${release.state}. Only a ready release with a digest can be promoted.`,
      { details: { state: release.state } },
    );
  }
  const before = (await loadDeployment(platform.pool, deploymentId))!;
  if (
    before.active_release_id === releaseId &&
    before.desired_release_id === releaseId &&
    before.state === "running"
  )
    return before;
  const promotion: Promotion = {
    release_id: releaseId,
    state: "running",
    started_at: new Date().toISOString(),
    ...(request ? { request } : {}),
  };
  await wantDeployment(platform, deploymentId, {
    desired: "running",
    desired_release_id: releaseId,
    promotion,
  });
  const settled = await platform.signals.until(`deployment:${deploymentId}`, promoteTimeoutMs, async () => {
    const row = await loadDeployment(platform.pool, deploymentId);
    return row && (row.promotion?.started_at !== promotion.started_at || row.promotion.state !== "running")
      ? row
      : undefined;
  });
  const outcome = settled?.promotion;
  if (outcome?.state === "succeeded" && outcome.release_id === releaseId) return settled!;
  if (outcome && outcome.release_id !== releaseId) {
    throw new PlatformError("DEPLOYMENT_BUSY", "Another promote took over while this one ran.", {
      retryAfterMs: 2000,
      details: { release_id: outcome.release_id },
    });
  }
  const failure = outcome?.failure;
  throw new PlatformError(
    (failure?.code as ProblemCode | undefined) ?? "PROMOTE_FAILED",
    failure?.message ?? "The release did not answer in time. Traffic stays where it was.",
    {
      details: {
        ...failure?.details,
        release_id: releaseId,
        still_serving_release_id: settled?.active_release_id ?? before.active_release_id,
      },
    },
  );
}

/**
 * The release to return to: the one of the named version, else the newest ready one that served before
 * the active one. Twice in a row therefore goes two back, and never forward again; a repeat of one
 * request (after a crash before its answer was stored) is the same rollback.
 */
export async function rollbackTarget(
  platform: Platform,
  row: DeploymentRow,
  versionId: string | undefined,
  request: string,
): Promise<ReleaseRow> {
  if (row.promotion?.request === request) {
    const chosen = await loadRelease(platform.pool, row.promotion.release_id);
    if (chosen) return chosen;
  }
  if (versionId) {
    const release = await queryOne<ReleaseRow>(
      platform.pool,
      "select * from releases where deployment_id = $1 and (deployment_version_id::text = $2 or id::text = $2)",
      [row.id, versionId],
    );
    if (!release) throw notFound(`Version ${versionId}`);
    return release;
  }
  const rows = await query<ReleaseRow>(
    platform.pool,
    `select r.* from releases r join versions v on v.id = r.deployment_version_id
     where r.deployment_id = $1 and r.state = 'ready' and v.promoted_at is not null
       and v.version_number < (select version_number from versions where id = $2) order by v.version_number desc limit 1`,
    [row.id, row.active_version_id],
  );
  if (!rows[0])
    throw new PlatformError(
      "NO_PREVIOUS_RELEASE",
      "No earlier release served this deployment. Publish one, or name a version.",
      { details: { active_version_id: row.active_version_id } },
    );
  return rows[0];
}
