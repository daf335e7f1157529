import { setTimeout as delay } from "node:timers/promises";
import { query } from "@platform/postgres";
import { trimExecutions } from "./cron/index.ts";
import { trimRequestLogs } from "./edges/index.ts";
import { tidyUploads } from "./deployments/index.ts";
import { syncPendingEgress } from "./egress/index.ts";
import type { Platform } from "./platform.ts";
import { tidyBuckets } from "./storage/index.ts";
import { forgetPreviews } from "./previews/index.ts";
import { expireSnapshots, tidySnapshots } from "./snapshots/index.ts";

const everyMs = 15_000;

/**
 * Removes boxes that no row names: what a crash between two steps, or a restored database, left on the
 * host. A row is always stored before its box is made, so an unnamed box has no owner.
 */
export async function removeUnownedBoxes(platform: Platform): Promise<void> {
  const boxes = await platform.host.boxes();
  const rows = await query<{ key: string }>(
    platform.pool,
    `select box_key as key from sandboxes where state <> 'destroyed'
     union all select box_key from instances where state <> 'destroyed'
     union all select unnest(array['bd-' || id, 'pf-' || id]) from builds where state in ('queued', 'building')`,
  );
  const owned = new Set(rows.map((row) => row.key));
  for (const box of boxes) {
    if (owned.has(box.key)) continue;
    platform.log.warn({ box: box.key }, "removing a box that nothing owns");
    await platform.host.deleteBox(box.key);
  }
}

const chores: readonly [string, (platform: Platform) => Promise<void>][] = [
  ["boxes", removeUnownedBoxes],
  ["snapshots", expireSnapshots],
  ["egress", syncPendingEgress],
  ["cut off snapshots", tidySnapshots],
  ["previews", forgetPreviews],
  ["uploads", tidyUploads],
  ["request logs", trimRequestLogs],
  ["buckets", tidyBuckets],
  ["cron executions", trimExecutions],
  [
    "old answers",
    async ({ pool }) => {
      await pool.query("delete from idempotency where created_at < now() - interval '24 hours'");
      await pool.query("delete from edges where last_seen_at < now() - interval '1 hour'");
    },
  ],
];

/** Chores that need no row of their own; each may run on several control planes at once. */
export async function runChores(platform: Platform, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    for (const [name, chore] of chores) {
      if (signal.aborted) return;
      await chore(platform).catch((error: unknown) => {
        if (!signal.aborted)
          platform.log.warn({ err: error, chore: name }, "a chore failed and will be tried again");
      });
    }
    await delay(everyMs, undefined, { signal }).catch(() => undefined); // Aborted: the loop ends.
  }
}
