import { PlatformError } from "@platform/contract";
import { HostError } from "@platform/host-api";
import { query, queryOne, transaction, type Queryable } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import { effectiveEgress, type Restricted } from "./effective.ts";

interface SandboxParts extends Restricted {
  readonly state: string;
  readonly box_key: string;
}

/** Whom a policy or rule concerns. */
export interface Reach {
  readonly tenantId: string;
  readonly workspaceId: string | null;
  readonly resourceId: string | null;
}

/** Notes, in the transaction of the change, which boxes do not have it in force yet. */
export async function markPendingIn(db: Queryable, reach: Reach): Promise<string[]> {
  const rows = await query<{ sandbox_id: string }>(
    db,
    `insert into egress_pending (sandbox_id) select id from sandboxes where tenant_id = $1 and ($2::uuid is null or id = $2)
       and ($3::uuid is null or workspace_id = $3) and state in ('provisioning', 'running', 'paused') order by id
     on conflict (sandbox_id) do update set since = now() returning sandbox_id`,
    [reach.tenantId, reach.resourceId, reach.workspaceId],
  );
  return rows.map((row) => row.sandbox_id);
}

/**
 * Brings the policy to the box. The pending row is held meanwhile, so that an older policy never
 * overwrites a newer one.
 *
 * @returns false when the box is not there yet: look again later
 * @throws HostError when the host refused or did not answer
 */
async function syncOne(platform: Platform, sandboxId: string): Promise<boolean> {
  return transaction(platform.pool, async (db) => {
    const pending = await db.query("select 1 from egress_pending where sandbox_id = $1 for update", [
      sandboxId,
    ]);
    if (pending.rowCount === 0) return true;
    const row = await queryOne<SandboxParts>(db, "select * from sandboxes where id = $1", [sandboxId]);
    if (row?.state === "provisioning") return false;
    if (row && (row.state === "running" || row.state === "paused")) {
      try {
        await platform.host.patchBox(
          row.box_key,
          { egress: await effectiveEgress(db, row) },
          AbortSignal.timeout(10_000),
        );
      } catch (error) {
        // A box that is gone reaches nothing; the sandbox's reconciler reports it.
        if (!(error instanceof HostError) || error.code !== "NOT_FOUND") throw error;
      }
    }
    await db.query("delete from egress_pending where sandbox_id = $1", [sandboxId]);
    return true;
  });
}

/**
 * Puts a change in force before its call is answered.
 *
 * @throws PlatformError HOST_UNAVAILABLE when a box could not be told; it will be, by the chore
 */
export async function enforce(platform: Platform, sandboxIds: readonly string[]): Promise<void> {
  let failed = 0;
  for (const id of sandboxIds) {
    await syncOne(platform, id).catch((error: unknown) => {
      failed += 1;
      platform.log.warn({ err: error, sandbox: id }, "an egress policy is not in force yet");
    });
  }
  if (failed > 0) {
    throw new PlatformError(
      "HOST_UNAVAILABLE",
      `The change is stored, but not yet in force for ${failed} sandboxes. Send it again to see it through.`,
      { retryAfterMs: 2_000, details: { pending: failed } },
    );
  }
}

/** The chore that finishes what a crash or an absent host left. */
export async function syncPendingEgress(platform: Platform): Promise<void> {
  const rows = await query<{ sandbox_id: string }>(
    platform.pool,
    "select sandbox_id from egress_pending order by since limit 500",
  );
  for (const { sandbox_id } of rows) {
    await syncOne(platform, sandbox_id).catch((error: unknown) =>
      platform.log.warn({ err: error, sandbox: sandbox_id }, "an egress policy is not in force yet"),
    );
  }
}
