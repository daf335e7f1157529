import { PlatformError, type ProblemCode, type PromoteOptions } from "@platform/contract";
import { query, queryOne } from "@platform/postgres";
import type { Call } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { loadRelease, type ReleaseRow } from "../releases/index.ts";
import { enqueue, isOver, loadPromotion, runningPromotion, type PromotionRow } from "./promotions.ts";
import { settingsOf } from "./settings.ts";
import { loadDeployment, type DeploymentRow } from "./store.ts";

/** Beyond the promote's own time: for its turn in the queue, milliseconds. */
const queueMs = 60_000;

type Who = Pick<Call, "caller" | "idFor">;

/**
 * Points the deployment at a release and waits until an answer of it was seen through the public name.
 * Nothing is built. Traffic stays where it was when the release does not become healthy. A promote that
 * waits for a time or an approval, or goes step by step, is answered as soon as it is in the queue.
 *
 * @throws PlatformError RELEASE_NOT_READY, PROMOTE_FAILED and what else ends a promotion
 */
export async function promote(
  platform: Platform,
  call: Who,
  deploymentId: string,
  releaseId: string,
  options: PromoteOptions = {},
): Promise<DeploymentRow> {
  const before = (await loadDeployment(platform.pool, deploymentId))!;
  const serves = before.active_release_id === releaseId && before.state === "running";
  if (serves && before.asleep_at === null && !(await runningPromotion(platform.pool, deploymentId)))
    return before;
  const promotion = await enqueue(platform, deploymentId, {
    id: call.idFor("promotion"),
    releaseId,
    kind: "promote",
    options,
    caller: call.caller,
  });
  const isLater = promotion.state === "awaiting_approval" || promotion.state === "scheduled";
  if (isLater || options.canary !== undefined || options.wait === false)
    return (await loadDeployment(platform.pool, deploymentId))!;
  return outcomeOf(platform, promotion, settingsOf(before).promote_timeout_sec * 1000 + queueMs);
}

async function outcomeOf(
  platform: Platform,
  promotion: PromotionRow,
  timeoutMs: number,
): Promise<DeploymentRow> {
  const id = promotion.deployment_id;
  const over = await platform.signals.until(`deployment:${id}`, timeoutMs, async () => {
    const now = await loadPromotion(platform.pool, promotion.id);
    return now && isOver(now) ? now : undefined;
  });
  const deployment = (await loadDeployment(platform.pool, id))!;
  if (over?.state === "succeeded") return deployment;
  if (!over)
    throw new PlatformError(
      "DEPLOYMENT_BUSY",
      "The promote is not over yet. Look at its promotion, or ask again to wait further.",
      { retryAfterMs: 2000, details: { promotion_id: promotion.id } },
    );
  const { failure } = over;
  throw new PlatformError(
    (failure?.code as ProblemCode | undefined) ?? "PROMOTE_FAILED",
    failure?.message ?? "The release did not answer in time. Traffic stays where it was.",
    {
      details: {
        ...failure?.details,
        release_id: promotion.release_id,
        promotion_id: promotion.id,
        still_serving_release_id: deployment.active_release_id,
      },
    },
  );
}

/**
 * Moves traffic back. While a promote runs, a rollback without a version is the end of that promote: what
 * serves goes on serving.
 *
 * @throws PlatformError NO_PREVIOUS_RELEASE, SCHEMA_NEWER and those of a promote
 */
export async function rollback(
  platform: Platform,
  call: Who,
  row: DeploymentRow,
  wanted: { version_id?: string | undefined; allow_schema_newer?: boolean | undefined },
): Promise<DeploymentRow> {
  const id = call.idFor("promotion");
  const known = await loadPromotion(platform.pool, id);
  if (known) return outcomeOf(platform, known, waitMs(row));
  const running = await runningPromotion(platform.pool, row.id);
  const target =
    !wanted.version_id && running?.kind === "promote" && row.active_release_id
      ? (await loadRelease(platform.pool, row.active_release_id))!
      : await rollbackTarget(platform, row, wanted.version_id);
  const newer = await schemaNewer(platform, row.id, target);
  if (newer.length > 0 && settingsOf(row).schema_policy === "refuse" && !wanted.allow_schema_newer)
    throw new PlatformError(
      "SCHEMA_NEWER",
      `${newer.length} migrations ran that this release does not know: ${newer.join(", ").slice(0, 300)}. Say allow_schema_newer if it works with them.`,
      { details: { schema_newer: newer, release_id: target.id } },
    );
  const promotion = await enqueue(platform, row.id, {
    id,
    releaseId: target.id,
    kind: "rollback",
    options: {},
    caller: call.caller,
    schemaNewer: newer,
  });
  return outcomeOf(platform, promotion, waitMs(row));
}

const waitMs = (row: DeploymentRow) => settingsOf(row).promote_timeout_sec * 1000 + queueMs;

/**
 * The release to return to: the one of the named version, else the newest ready one that served before
 * the active one. Twice in a row therefore goes two back, and never forward again. What died on trial or
 * as a canary is passed over.
 */
async function rollbackTarget(
  platform: Platform,
  row: DeploymentRow,
  versionId: string | undefined,
): Promise<ReleaseRow> {
  if (versionId) {
    const release = await queryOne<ReleaseRow>(
      platform.pool,
      "select * from releases where deployment_id = $1 and (deployment_version_id::text = $2 or id::text = $2)",
      [row.id, versionId],
    );
    if (!release)
      throw new PlatformError(
        "NOT_FOUND",
        `Version ${versionId} does not exist, or this key may not see it. List what there is and retry.`,
      );
    return release;
  }
  const rows = await query<ReleaseRow>(
    platform.pool,
    `select r.* from releases r join versions v on v.id = r.deployment_version_id
     where r.deployment_id = $1 and r.state = 'ready' and v.promoted_at is not null and v.verdict is null
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

/** Migrations recorded with a release that served, and not with this one: the schema is that far ahead of it. */
export async function schemaNewer(
  platform: Platform,
  deploymentId: string,
  target: ReleaseRow,
): Promise<string[]> {
  const rows = await query<{ name: string }>(
    platform.pool,
    `select distinct name from releases r join versions v on v.id = r.deployment_version_id,
       jsonb_array_elements_text(case when jsonb_typeof(r.metadata->'migrations') = 'array' then r.metadata->'migrations' else '[]' end) as name
     where r.deployment_id = $1 and v.promoted_at is not null order by name`,
    [deploymentId],
  );
  const own = new Set((target.metadata["migrations"] as string[] | undefined) ?? []);
  return rows.map(({ name }) => name).filter((name) => !own.has(name));
}
