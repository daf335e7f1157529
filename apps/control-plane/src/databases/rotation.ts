import { faultPoint } from "@platform/daemon";
import { HostError, type DatabaseCredentials } from "@platform/host-api";
import { query, queryOne } from "@platform/postgres";
import { record } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { renewLinked, type Owner } from "./attach.ts";
import { announce, databaseEvent, loadDatabase, notReady, type DatabaseRow, type Rotation } from "./store.ts";

const handOverMs = 45_000;

/**
 * New credentials. The old ones log in until everything that is linked has the new ones, then no more, and
 * their sessions end. Without links that is at once. The host is asked by whoever comes first: this call,
 * or the reconciler after a crash.
 *
 * @param overlapSec both pairs hold at least for so long
 */
export async function rotateCredentials(
  platform: Platform,
  row: DatabaseRow,
  overlapSec: number,
): Promise<DatabaseCredentials> {
  // Whose password was changed behind our back gets one that holds.
  const isLockedOut = row.state === "error" && row.reason === "auth_failed";
  if (row.state !== "running" && !isLockedOut) throw notReady(row);
  const now = Date.now();
  const rotation: Rotation = {
    started_at: new Date(now).toISOString(),
    not_before: new Date(now + overlapSec * 1000).toISOString(),
    deployments: null,
  };
  await setRotation(platform, row.id, rotation);
  faultPoint("control-plane.database.rotation-noted");
  const credentials = await platform.host.rotate(row.host_key);
  await platform.pool.query(
    "update databases set next_look_at = now(), generation = generation + 1 where id = $1",
    [row.id],
  );
  platform.signals.announce("work:databases");
  // The answer comes once whoever is linked was given the new ones, and is shut out before nobody.
  await platform.signals.until(`database:${row.id}`, handOverMs, async () => {
    const seen = await loadDatabase(platform.pool, row.id);
    if (!seen?.rotation) return true;
    const isWaiting =
      seen.rotation.deployments !== null && (overlapSec > 0 || (await hasLinks(platform, row.id)));
    return isWaiting || undefined;
  });
  return credentials;
}

/** One step of a rotation that goes on; part of every look at the database. @returns whether it goes on */
export async function continueRotation(
  platform: Platform,
  row: DatabaseRow,
  isRotating: boolean,
): Promise<boolean> {
  if (!isRotating) {
    // The host never began, or has ended it already.
    if (row.rotation && row.rotation.deployments !== null) await finish(platform, row);
    else if (row.rotation && Date.parse(row.rotation.started_at) < Date.now() - handOverMs)
      await setRotation(platform, row.id, null);
    return false;
  }
  const startedAt = new Date().toISOString();
  const rotation = row.rotation ?? { started_at: startedAt, not_before: startedAt, deployments: null };
  if (rotation.deployments === null) {
    await setRotation(platform, row.id, { ...rotation, deployments: await handOver(platform, row) });
    faultPoint("control-plane.database.rotation-handed-over");
    const next = await loadDatabase(platform.pool, row.id);
    return next ? continueRotation(platform, next, true) : false;
  }
  if (Date.parse(rotation.not_before) > Date.now()) return true;
  for (const [id, version] of Object.entries(rotation.deployments))
    if (!(await servesWith(platform, id, version))) return true;
  await platform.host.endRotation(row.host_key);
  await finish(platform, row);
  return false;
}

/** Everything linked gets the new credentials. @returns the configuration that shows it, per deployment */
async function handOver(platform: Platform, row: DatabaseRow): Promise<Record<string, number>> {
  const links = await query<{ resource_type: Owner["type"]; resource_id: string }>(
    platform.pool,
    "select distinct resource_type, resource_id from database_links where database_id = $1",
    [row.id],
  );
  const deployments: Record<string, number> = {};
  for (const { resource_type: type, resource_id: id } of links) {
    try {
      await renewLinked(platform, { type, id });
    } catch (error) {
      // A box that is away gets what holds then when it is started again.
      if (!(error instanceof HostError)) throw error;
      platform.log.warn(
        { err: error, database: row.id, [type]: id },
        "a linked resource could not be renewed",
      );
    }
    if (type !== "deployment") continue;
    const found = await queryOne<{ config_version: number }>(
      platform.pool,
      "select config_version from deployments where id = $1 and state <> 'deleted'",
      [id],
    );
    if (found) deployments[id] = found.config_version;
  }
  return deployments;
}

/** No process of the deployment has older settings, and if it serves, one has these. */
async function servesWith(platform: Platform, id: string, version: number): Promise<boolean> {
  const seen = await queryOne<{ old: boolean; state: string; desired: string }>(
    platform.pool,
    `select d.state, d.desired, exists (select 1 from instances i where i.deployment_id = d.id
        and i.state <> 'destroyed' and i.config_version < $2) as old from deployments d where d.id = $1`,
    [id, version],
  );
  return !seen || seen.state === "deleted" || !seen.old;
}

const hasLinks = async (platform: Platform, id: string) =>
  (await queryOne(platform.pool, "select 1 from database_links where database_id = $1 limit 1", [id])) !==
  null;

async function setRotation(platform: Platform, id: string, rotation: Rotation | null): Promise<void> {
  const value = rotation === null ? null : JSON.stringify(rotation);
  await platform.pool.query("update databases set rotation = $2, updated_at = now() where id = $1", [
    id,
    value,
  ]);
  announce(platform, id);
}

async function finish(platform: Platform, row: DatabaseRow): Promise<void> {
  await setRotation(platform, row.id, null);
  await record(platform, databaseEvent(row, "database.rotated"));
}
