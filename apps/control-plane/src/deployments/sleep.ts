import type { RunSettings } from "@platform/contract";
import { record } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { eventOf, loadDeployment, setDeployment, type DeploymentRow, type InstanceRow } from "./store.ts";
import { isOpen } from "./traffic.ts";
import { isOnTrial } from "./trial.ts";

/** True when nobody asked for long enough and no connection is open. */
export async function mayFallAsleep(
  platform: Platform,
  row: DeploymentRow,
  settings: RunSettings,
  instances: readonly InstanceRow[],
  signal: AbortSignal,
): Promise<boolean> {
  if (!settings.scale_to_zero || instances.length === 0 || isOnTrial(row) || !isOpen(row)) return false;
  const since = Math.max(row.last_used_at.getTime(), row.promoted_at?.getTime() ?? 0);
  if (Date.now() - since < settings.idle_sec * 1000) return false;
  for (const one of instances) {
    const stats = await platform.host.stats(one.box_key, signal);
    if ((stats?.openConnections ?? 0) > 0) return false;
  }
  return true;
}

export async function fallAsleep(platform: Platform, row: DeploymentRow): Promise<void> {
  if (await setDeployment(platform, row, { asleep_at: new Date() }))
    await record(platform, eventOf(row, "deployment.slept"));
}

/** Traffic to a deployment that sleeps starts it again; the edge holds the request meanwhile. */
export async function wakeDeployment(platform: Platform, id: string): Promise<void> {
  const { rowCount } = await platform.pool.query(
    `update deployments set asleep_at = null, last_used_at = now(), generation = generation + 1, next_look_at = now()
     where id = $1 and asleep_at is not null and desired = 'running'`,
    [id],
  );
  if (rowCount === 0) return;
  platform.signals.announce("work:deployments");
  const row = await loadDeployment(platform.pool, id);
  if (row) await record(platform, eventOf(row, "deployment.woken"));
}
