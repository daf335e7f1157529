import { setTimeout as delay } from "node:timers/promises";
import { query } from "@platform/postgres";
import { keepDelegations, tidyChallenges, warnOfExpiry } from "./certificates/index.ts";
import { trimExecutions } from "./cron/index.ts";
import { recheckDomains } from "./domains/index.ts";
import { ensureClientApiRoutes } from "./e2b/index.ts";
import { forgetEdges, trimRequestLogs } from "./edges/index.ts";
import { collectReleases, tidyUploads, trimInstanceLogs } from "./deployments/index.ts";
import { syncPendingEgress } from "./egress/index.ts";
import { settleBulk } from "./groups/index.ts";
import type { Platform } from "./platform.ts";
import { tidyBuckets } from "./storage/index.ts";
import { tellTroubles } from "./sandboxes/index.ts";
import { forgetPreviews, trimConsole } from "./previews/index.ts";
import { trimSamples } from "./sandboxes/index.ts";
import { expireSnapshots, tidySnapshots } from "./snapshots/index.ts";

const everyMs = 15_000;

/**
 * A box has to be without an owner for this long, in milliseconds, in the eyes of one control plane. A
 * row is always stored before its box is made; the time is for a database that was just restored, or a
 * host that was pointed at the wrong control plane, to be noticed by people.
 */
const graceMs = 60_000;
const unownedSince = new WeakMap<Platform, Map<string, number>>();

/**
 * Removes boxes that no row names: what a crash between two steps, or a restored database, left on the
 * host. The reverse, a row whose box is not there, is each reconciler's own.
 */
export async function removeUnownedBoxes(platform: Platform, now = Date.now()): Promise<void> {
  const boxes = await platform.host.boxes();
  const rows = await query<{ key: string }>(
    platform.pool,
    `select box_key as key from sandboxes where state <> 'destroyed'
     union all select content->>'from' from sandboxes where state <> 'destroyed' and content ? 'from'
     union all select box_key from instances where state <> 'destroyed'
     union all select unnest(array['bd-' || id, 'pf-' || id]) from builds where state in ('queued', 'building')`,
  );
  const owned = new Set(rows.map((row) => row.key));
  const before = unownedSince.get(platform) ?? new Map<string, number>();
  const since = new Map<string, number>();
  unownedSince.set(platform, since);
  for (const { key, createdAt } of boxes) {
    if (owned.has(key)) continue;
    const first = before.get(key) ?? now;
    since.set(key, first);
    if (now - first < graceMs) continue;
    platform.log.warn({ box: key, createdAt, unownedMs: now - first }, "removing a box that nothing owns");
    await platform.host.deleteBox(key);
    since.delete(key);
  }
}

const chores: readonly [string, (platform: Platform) => Promise<void>][] = [
  ["boxes", (platform) => removeUnownedBoxes(platform)],
  ["troubles", tellTroubles],
  ["snapshots", expireSnapshots],
  ["bulk jobs", settleBulk],
  ["metrics", trimSamples],
  ["egress", syncPendingEgress],
  ["cut off snapshots", tidySnapshots],
  ["previews", forgetPreviews],
  ["what browsers said", trimConsole],
  ["uploads", tidyUploads],
  ["releases", collectReleases],
  ["instances' logs", trimInstanceLogs],
  ["clients' API hosts", ensureClientApiRoutes],
  ["domains", recheckDomains],
  ["challenges", tidyChallenges],
  ["delegations", (platform) => keepDelegations(platform, platform.settings.acme ?? null)],
  ["ending certificates", warnOfExpiry],
  ["request logs", trimRequestLogs],
  ["lost edges", forgetEdges],
  ["buckets", tidyBuckets],
  ["cron executions", trimExecutions],
  [
    "old answers",
    async ({ pool }) => {
      await pool.query("delete from idempotency where created_at < now() - interval '24 hours'");
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
