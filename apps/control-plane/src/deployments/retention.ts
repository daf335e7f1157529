import { RetentionRules } from "@platform/contract";
import { query, transaction, type Queryable } from "@platform/postgres";
import type { Pool } from "pg";
import type { Platform } from "../platform.ts";

const standard: RetentionRules = { keep_last: 20, keep_days: 30 };
/** Deployments gone through in one round. */
const most = 500;
const hourMs = 3_600_000;

/** The deployment's own rules over the tenant's over ours. */
export function rulesOf(tenant: unknown, deployment: unknown): RetentionRules {
  const read = (value: unknown) => RetentionRules.partial().safeParse(value ?? {}).data ?? {};
  return { ...standard, ...read(tenant), ...read(deployment) };
}

/**
 * Releases that something still counts on, whatever the rules say: what serves, what is wanted, what served
 * before, what has instances, what is pinned, what an open promotion names, and what the route leads to.
 */
export const inUse = `
  select r.id from releases r join deployments d on d.id = r.deployment_id
    where d.state <> 'deleted' and (r.id in (d.active_release_id, d.desired_release_id, d.previous_release_id) or r.pinned_at is not null)
  union select p.release_id from promotions p where p.state in ('awaiting_approval', 'scheduled', 'queued', 'running')
  union select p.from_release_id from promotions p where p.state = 'running' and p.from_release_id is not null
  union select i.release_id from instances i where i.state <> 'destroyed'
  union select o.release_id from routes o where o.release_id is not null and o.target is not null
  union select (o.target->'canary'->>'releaseId')::uuid from routes o where o.target ? 'canary'
  union select (o.target->'fallback'->>'releaseId')::uuid from routes o where o.target ? 'fallback'
  union (select distinct on (v.deployment_id) r.id from versions v join releases r on r.deployment_version_id = v.id
           join deployments d on d.id = v.deployment_id
         where v.promoted_at is not null and v.verdict is null and r.id is distinct from d.active_release_id and r.state = 'ready'
         order by v.deployment_id, v.promoted_at desc)`;

/**
 * Archives what the rules let go of one deployment. The row's lock keeps promotes out meanwhile: they take
 * it before they name a release.
 *
 * @returns ids of the releases that can no longer be promoted
 */
export async function archiveReleases(
  db: Queryable,
  deploymentId: string,
  rules: RetentionRules,
  now: Date = new Date(),
): Promise<string[]> {
  await db.query("select 1 from deployments where id = $1 for update", [deploymentId]);
  const rows = await query<{ id: string }>(
    db,
    `with ready as (
       select r.id, row_number() over (order by v.version_number desc) as place, coalesce(r.ready_at, r.created_at) as since
       from releases r join versions v on v.id = r.deployment_version_id join deployments d on d.id = r.deployment_id
       where r.deployment_id = $1 and r.state = 'ready')
     update releases set state = 'archived', archived_at = $2
     where id in (select id from ready where place > $3 and since < $2::timestamptz - $4 * interval '1 day')
       and state = 'ready' and id not in (${inUse}) returning id`,
    [deploymentId, now, rules.keep_last, rules.keep_days],
  );
  const ids = rows.map(({ id }) => id);
  if (ids.length > 0)
    await db.query(
      `update versions set state = 'archived', archived_at = $2 where id in (select deployment_version_id from releases where id = any($1))`,
      [ids, now],
    );
  return ids;
}

/**
 * Digests of everything that may still be started, built from or installed from. A digest is kept as long as
 * one row needs it, whoever else archived it.
 */
export async function neededDigests(db: Queryable): Promise<string[]> {
  const rows = await query<{ digest: string }>(
    db,
    `with live as (
       select r.* from releases r join deployments d on d.id = r.deployment_id
       where (d.state <> 'deleted' and r.state in ('pending', 'ready', 'active')) or r.id in (${inUse}))
     select 'sha256:' || artifact_sha256 as digest from live where artifact_sha256 is not null
     union select metadata->>'sbom_digest' from live
     union select b.bundle_digest from builds b where b.bundle_digest is not null
       and (b.state in ('queued', 'building') or b.release_id in (select id from live))
     union select b.source_digest from builds b where b.source_digest is not null
       and (b.state in ('queued', 'building') or b.release_id in (select id from live))
     union select b.request->>'source_digest' from builds b where b.request ? 'source_digest' and b.state in ('queued', 'building')
     union select s.source_digest from (
       select distinct on (b.deployment_id) b.source_digest from builds b join deployments d on d.id = b.deployment_id
       where d.state <> 'deleted' and b.source_digest is not null order by b.deployment_id, b.created_at desc) s
     union select digest from install_cache
     union select case when sha256 like 'sha256:%' then sha256 else 'sha256:' || sha256 end from uploads
     union select content->>'digest' from sandboxes where state <> 'destroyed' and content ? 'digest'`,
  );
  return rows.map(({ digest }) => digest).filter((digest) => /^sha256:[0-9a-f]{64}$/.test(digest ?? ""));
}

/** Rows first, then files: what a crash between the two leaves is collected the next time. */
export async function archiveAll(pool: Pool, now: Date = new Date()): Promise<number> {
  const rows = await query<{ id: string; tenant: unknown; own: unknown }>(
    pool,
    `select d.id, t.policy->'retention' as tenant, d.settings->'retention' as own from deployments d join tenants t on t.id = d.tenant_id
     where d.state <> 'deleted' and exists (select 1 from releases r where r.deployment_id = d.id and r.state = 'ready')
     order by d.updated_at limit $1`,
    [most],
  );
  let archived = 0;
  for (const { id, tenant, own } of rows)
    archived += (await transaction(pool, (db) => archiveReleases(db, id, rulesOf(tenant, own), now))).length;
  return archived;
}

const collectedAt = new WeakMap<Platform, number>();

/** Once an hour. */
export async function collectReleases(platform: Platform): Promise<void> {
  if (Date.now() - (collectedAt.get(platform) ?? 0) < hourMs) return;
  collectedAt.set(platform, Date.now());
  await archiveAll(platform.pool);
  const keep = await neededDigests(platform.pool);
  const { removed, freedBytes } = await platform.host.collectGarbage(keep);
  if (removed > 0) platform.log.info({ removed, freedBytes }, "artifacts that nothing needs were removed");
}
