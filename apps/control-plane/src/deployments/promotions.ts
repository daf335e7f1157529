import { PlatformError, notFound, type PromoteOptions } from "@platform/contract";
import { query, queryOne, transaction, type Queryable } from "@platform/postgres";
import { auditIn } from "../audit/index.ts";
import { recordIn } from "../events/index.ts";
import type { Caller } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import type { ReleaseRow } from "../releases/index.ts";
import { canaryOf, settingsOf } from "./settings.ts";
import { eventOf, type DeploymentRow, type Promotion } from "./store.ts";

export type PromotionState =
  "awaiting_approval" | "scheduled" | "queued" | "running" | "succeeded" | "failed" | "cancelled";

/** How far a canary is, and what was seen of each step so far. */
export interface CanaryState {
  readonly step: number;
  readonly percent: number;
  readonly since: string;
  readonly steps: readonly { percent: number; requests: number; errors: number }[];
}

export interface PromotionRow {
  readonly id: string;
  readonly deployment_id: string;
  readonly release_id: string;
  readonly from_release_id: string | null;
  readonly kind: "promote" | "rollback" | "return";
  readonly state: PromotionState;
  readonly options: PromoteOptions;
  readonly run_at: Date;
  readonly artifact_sha256: string | null;
  readonly requested_by: { key_id?: string; key_name?: string };
  readonly approval: {
    key_id: string;
    key_name: string;
    at: string;
    artifact_sha256: string;
    note?: string;
  } | null;
  readonly schema_newer: readonly string[];
  readonly canary: CanaryState | null;
  readonly failure: Promotion["failure"] | null;
  readonly proved: string | null;
  /** When what the release recorded had run on the deployment's database. */
  readonly migrated_at: Date | null;
  readonly seq: string;
  readonly created_at: Date;
  readonly started_at: Date | null;
  readonly finished_at: Date | null;
}

const openStates = ["awaiting_approval", "scheduled", "queued", "running"];
export const isOver = (row: PromotionRow): boolean => !openStates.includes(row.state);
const mostOpen = 20;

export const promotionView = (row: PromotionRow) => ({
  id: row.id,
  deployment_id: row.deployment_id,
  release_id: row.release_id,
  from_release_id: row.from_release_id,
  kind: row.kind,
  state: row.state,
  options: row.options,
  run_at: row.run_at.toISOString(),
  artifact_sha256: row.artifact_sha256,
  requested_by: row.requested_by,
  approval: row.approval,
  schema_newer: row.schema_newer,
  canary: row.canary,
  error: row.failure,
  proved: row.proved,
  created_at: row.created_at.toISOString(),
  started_at: row.started_at?.toISOString() ?? null,
  finished_at: row.finished_at?.toISOString() ?? null,
});

export const loadPromotion = (db: Queryable, id: string) =>
  queryOne<PromotionRow>(db, "select * from promotions where id = $1", [id]);

export const runningPromotion = (db: Queryable, deploymentId: string) =>
  queryOne<PromotionRow>(db, "select * from promotions where deployment_id = $1 and state = 'running'", [
    deploymentId,
  ]);

export interface NewPromotion {
  readonly id: string;
  readonly releaseId: string;
  readonly kind: "promote" | "rollback";
  readonly options: PromoteOptions;
  readonly caller: Pick<Caller, "keyId" | "keyName">;
  readonly schemaNewer?: readonly string[];
}

function assertReady(release: ReleaseRow | null, id: string): asserts release is ReleaseRow {
  if (!release) throw notFound(`Release ${id}`);
  if (release.state === "ready" && release.artifact_sha256) return;
  throw new PlatformError(
    "RELEASE_NOT_READY",
    `Release ${id} is ${release.state}. Only a ready release with a digest can be promoted.`,
    { details: { state: release.state } },
  );
}

/**
 * Puts a promotion into the deployment's queue, once for each id. From now on no retention rule takes its
 * release. A rollback goes before everything else and cancels what has not begun or not ended.
 *
 * @throws PlatformError NOT_FOUND, RELEASE_NOT_READY, DEPLOYMENT_LOCKED, DEPLOYMENT_BUSY
 */
export async function enqueue(
  platform: Platform,
  deploymentId: string,
  wanted: NewPromotion,
): Promise<PromotionRow> {
  const row = await transaction(platform.pool, async (db) => {
    const deployment = (await queryOne<DeploymentRow>(
      db,
      "select * from deployments where id = $1 for update",
      [deploymentId],
    ))!;
    const known = await loadPromotion(db, wanted.id);
    if (known) return known;
    const release = await queryOne<ReleaseRow>(
      db,
      "select * from releases where id = $1 and deployment_id = $2",
      [wanted.releaseId, deploymentId],
    );
    assertReady(release, wanted.releaseId);
    const settings = settingsOf(deployment);
    if (settings.locked !== "" && wanted.kind === "promote")
      throw new PlatformError(
        "DEPLOYMENT_LOCKED",
        `No promote is taken now: ${settings.locked}. Set settings.locked to "" to allow them.`,
        { details: { locked: settings.locked } },
      );
    const [open] = await query<{ count: string }>(
      db,
      "select count(*) as count from promotions where deployment_id = $1 and state = any($2)",
      [deploymentId, openStates],
    );
    if (wanted.kind === "rollback") await supersede(db, deploymentId, wanted.id);
    else if (Number(open!.count) >= mostOpen)
      throw new PlatformError(
        "DEPLOYMENT_BUSY",
        `${open!.count} promotions of this deployment are not over. Cancel some, or wait.`,
        { retryAfterMs: 5000 },
      );
    canaryOf(wanted.options);
    const isLater = wanted.options.at !== undefined && Date.parse(wanted.options.at) > Date.now();
    const needsApproval = settings.approval_required && wanted.kind === "promote";
    const state = needsApproval ? "awaiting_approval" : isLater ? "scheduled" : "queued";
    const [made] = await query<PromotionRow>(
      db,
      `insert into promotions (id, deployment_id, release_id, kind, state, options, run_at, artifact_sha256, requested_by, schema_newer)
       values ($1, $2, $3, $4, $5, $6, coalesce($7::timestamptz, now()), $8, $9, $10) returning *`,
      [
        wanted.id,
        deploymentId,
        wanted.releaseId,
        wanted.kind,
        state,
        wanted.options,
        wanted.options.at ?? null,
        release.artifact_sha256,
        { key_id: wanted.caller.keyId, key_name: wanted.caller.keyName },
        JSON.stringify(wanted.schemaNewer ?? []),
      ],
    );
    await touch(db, deploymentId, state === "queued");
    if (needsApproval)
      await recordIn(
        db,
        eventOf(deployment, "deployment.approval_requested", {
          promotion_id: wanted.id,
          release_id: wanted.releaseId,
          artifact_sha256: release.artifact_sha256,
        }),
      );
    return made!;
  });
  announce(platform, deploymentId);
  return row;
}

/** Wakes the reconciler; `runs` also wants the deployment to run. */
const touch = (db: Queryable, deploymentId: string, runs: boolean) =>
  db.query(
    `update deployments set generation = generation + 1, next_look_at = now(), updated_at = now(),
       desired = case when $2 and desired = 'stopped' then 'running' else desired end where id = $1`,
    [deploymentId, runs],
  );

const announce = (platform: Platform, deploymentId: string) =>
  platform.signals.announce("work:deployments", "events", `deployment:${deploymentId}`);

const supersede = (db: Queryable, deploymentId: string, by: string) =>
  db.query(
    `update promotions set state = 'cancelled', finished_at = now(), failure = $2
     where deployment_id = $1 and state in ('queued', 'running')`,
    [
      deploymentId,
      {
        code: "PROMOTE_CANCELLED",
        message: "A rollback took its place.",
        details: { superseded_by: by },
      },
    ],
  );

/** Begins the next promotion whose turn and time have come, if none runs. One transaction. */
export async function beginNext(platform: Platform, row: DeploymentRow): Promise<boolean> {
  return transaction(platform.pool, async (db) => {
    const now = await queryOne<DeploymentRow>(db, "select * from deployments where id = $1 for update", [
      row.id,
    ]);
    if (!now || now.generation !== row.generation || now.desired !== "running") return false;
    if (await runningPromotion(db, row.id)) return false;
    const [next] = await query<PromotionRow>(
      db,
      `update promotions set state = 'running', started_at = now(), from_release_id = $2
       where id = (select id from promotions where deployment_id = $1 and state in ('queued', 'scheduled') and run_at <= now()
                   order by (kind = 'rollback') desc, seq limit 1) returning *`,
      [row.id, now.active_release_id],
    );
    if (!next) return false;
    const promotion: Promotion = {
      id: next.id,
      kind: next.kind,
      release_id: next.release_id,
      state: "running",
      // A caller waits from the call on; a time in the future was nobody's wait.
      started_at: new Date(Math.max(next.created_at.getTime(), next.run_at.getTime())).toISOString(),
    };
    await db.query(
      "update deployments set generation = generation + 1, desired_release_id = $2, promotion = $3, asleep_at = null where id = $1",
      [row.id, next.release_id, promotion],
    );
    return true;
  });
}

/** Milliseconds until the next scheduled promotion; null when there is none. */
export async function nextDueMs(platform: Platform, deploymentId: string): Promise<number | null> {
  const row = await queryOne<{ run_at: Date | null }>(
    platform.pool,
    "select min(run_at) as run_at from promotions where deployment_id = $1 and state in ('queued', 'scheduled')",
    [deploymentId],
  );
  return row?.run_at ? Math.max(0, row.run_at.getTime() - Date.now()) : null;
}

/** Those that wait for a deployment that stops or goes have nothing to wait for. */
export async function cancelAll(platform: Platform, deploymentId: string, why: string): Promise<void> {
  await platform.pool.query(
    `update promotions set state = 'cancelled', finished_at = now(), failure = $2 where deployment_id = $1 and state = any($3)`,
    [deploymentId, { code: "PROMOTE_CANCELLED", message: why, details: {} }, openStates],
  );
}

/** @throws PlatformError CONFLICT when it is over */
export async function cancelPromotion(
  platform: Platform,
  deployment: DeploymentRow,
  promotion: PromotionRow,
  caller: Caller,
): Promise<PromotionRow> {
  const row = await transaction(platform.pool, async (db) => {
    await db.query("select 1 from deployments where id = $1 for update", [deployment.id]);
    const [cancelled] = await query<PromotionRow>(
      db,
      `update promotions set state = 'cancelled', finished_at = now(), failure = $2 where id = $1 and state = any($3) returning *`,
      [
        promotion.id,
        {
          code: "PROMOTE_CANCELLED",
          message: `It was cancelled by ${caller.keyName}.`,
          details: { cancelled_by: { key_id: caller.keyId, key_name: caller.keyName } },
        },
        openStates,
      ],
    );
    if (!cancelled)
      throw new PlatformError("CONFLICT", "This promotion is over. Roll back if it should not serve.");
    await touch(db, deployment.id, false);
    await recordIn(
      db,
      eventOf(deployment, "deployment.cancelled", {
        promotion_id: promotion.id,
        release_id: promotion.release_id,
      }),
    );
    return cancelled;
  });
  announce(platform, deployment.id);
  return row;
}

/** Who approved which digest, stored with the promotion and in the audit log. @throws PlatformError APPROVAL_REFUSED, CONFLICT */
export async function approvePromotion(
  platform: Platform,
  deployment: DeploymentRow,
  promotion: PromotionRow,
  caller: Caller,
  stated: { artifact_sha256?: string | undefined; note?: string | undefined },
): Promise<PromotionRow> {
  if (promotion.requested_by.key_id === caller.keyId)
    throw new PlatformError(
      "APPROVAL_REFUSED",
      "Whoever asked for a promote cannot approve it. Use another key.",
      { details: { requested_by: promotion.requested_by } },
    );
  const digest = stated.artifact_sha256?.replace(/^sha256:/, "");
  if (digest !== undefined && digest !== promotion.artifact_sha256)
    throw new PlatformError(
      "APPROVAL_REFUSED",
      "The stated digest is not the one that waits for approval. Look at the promotion again.",
      { details: { artifact_sha256: promotion.artifact_sha256 } },
    );
  const row = await transaction(platform.pool, async (db) => {
    await db.query("select 1 from deployments where id = $1 for update", [deployment.id]);
    const approval = {
      key_id: caller.keyId,
      key_name: caller.keyName,
      at: new Date().toISOString(),
      artifact_sha256: promotion.artifact_sha256,
      ...(stated.note ? { note: stated.note } : {}),
    };
    const [approved] = await query<PromotionRow>(
      db,
      `update promotions set state = case when run_at > now() then 'scheduled' else 'queued' end, approval = $2
       where id = $1 and state = 'awaiting_approval' returning *`,
      [promotion.id, approval],
    );
    if (!approved)
      throw new PlatformError(
        "CONFLICT",
        `This promotion is ${promotion.state}; there is nothing to approve.`,
      );
    await touch(db, deployment.id, approved.state === "queued");
    await auditIn(db, caller, {
      action: "deployments.promotion.approved",
      resourceType: "deployment",
      resourceId: deployment.id,
      workspaceId: deployment.workspace_id,
      metadata: {
        promotion_id: promotion.id,
        release_id: promotion.release_id,
        artifact_sha256: promotion.artifact_sha256,
        requested_by: promotion.requested_by,
      },
    });
    await recordIn(
      db,
      eventOf(deployment, "deployment.approved", {
        promotion_id: promotion.id,
        release_id: promotion.release_id,
        approval,
      }),
    );
    return approved;
  });
  announce(platform, deployment.id);
  return row;
}
