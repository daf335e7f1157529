import { resourceRoutes as r } from "@platform/contract";
import { query } from "@platform/postgres";
import { handler, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { ownedBy } from "../tenants/index.ts";
import { noPrices, perSecond } from "../prices.ts";

interface ResourceRow {
  readonly type: string;
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly proof_ok: boolean | null;
  readonly proof_at: Date | null;
  readonly proof_what: string;
  readonly proof_detail: string | null;
  readonly running_seconds: number | null;
  readonly cents: number | null;
  readonly created_at: Date;
}

/** Most rows of one answer. */
const most = 500;

const shared = `tenant_id, workspace_id, project_id, external_workspace_id, external_user_id, external_project_id, created_at`;
/** Of a row that belongs to a sandbox. */
const ofSandbox = `s.tenant_id, s.workspace_id, s.project_id, s.external_workspace_id, s.external_user_id, s.external_project_id`;

/**
 * One row for each thing. `owners` are the ids of the sandboxes and deployments that it belongs to. What a proof
 * is differs: a login, a request, a finished run, a DNS answer; each is the record that its own feature keeps.
 */
const everything = `
  select 'sandbox' as type, id, coalesce(name, slug) as name, state, array[id] as owners,
    ready as proof_ok, ready_at as proof_at, 'eight readiness components' as proof_what,
    last_error->>'code' as proof_detail,
    ${shared}
  from sandboxes where state <> 'destroyed'
  union all
  select 'preview', p.id, p.hostname, case when p.probe is null then 'pending' else p.visibility end, array[p.sandbox_id],
    p.probe is not null, (p.probe->>'at')::timestamptz, 'request and WebSocket upgrade by public host name', null,
    ${ofSandbox}, p.created_at
  from previews p join sandboxes s on s.id = p.sandbox_id where s.state <> 'destroyed'
  union all
  select 'deployment', d.id, d.name, d.state, array[d.id],
    d.state = 'running', coalesce(i.looked_at, d.promoted_at), 'health of the live release''s instances', d.error_message,
    d.tenant_id, d.workspace_id, d.project_id, d.external_workspace_id, d.external_user_id, d.external_project_id, d.created_at
  from deployments d left join lateral (
    select max(last_health_check_at) as looked_at from instances i
    where i.deployment_id = d.id and i.release_id = d.active_release_id) i on true
  where d.state <> 'deleted'
  union all
  select 'database', id, name, state,
    (select coalesce(array_agg(resource_id), '{}') from database_links l where l.database_id = databases.id),
    (proof->>'ok')::boolean, (proof->>'at')::timestamptz, 'login with the issued credentials', reason, ${shared}
  from databases where state <> 'deleted'
  union all
  select 'bucket', id, name, state, '{}', true, created_at, 'an object written, read and removed', null, ${shared}
  from buckets where state = 'ready'
  union all
  select 'cron_job', j.id, j.name, j.state, array[j.target_id], e.state = 'succeeded', e.finished_at, 'last run', e.reason,
    j.tenant_id, j.workspace_id, j.project_id, j.external_workspace_id, j.external_user_id, j.external_project_id, j.created_at
  from cron_jobs j left join lateral (
    select state, reason, finished_at from cron_executions e
    where e.cron_job_id = j.id and e.state in ('succeeded', 'failed') order by finished_at desc limit 1) e on true
  union all
  select 'domain', id, hostname, state, array_remove(array[deployment_id, sandbox_id], null), verified_at is not null,
    coalesce(checked_at, verified_at), 'DNS records', null, ${shared}
  from domains where state <> 'removed'`;

const view = (row: ResourceRow) => ({
  type: row.type,
  id: row.id,
  name: row.name,
  state: row.state,
  status: row.state,
  proof:
    row.proof_ok === null || row.proof_at === null
      ? null
      : { ok: row.proof_ok, at: row.proof_at.toISOString(), what: row.proof_what, detail: row.proof_detail },
  cost: {
    running_seconds: row.running_seconds === null ? null : Math.round(row.running_seconds),
    period_days: 30,
    // Without prices nothing is billed: then it is 0, not unknown.
    cents: Math.round(row.cents ?? 0),
  },
  created_at: row.created_at.toISOString(),
});

export function resourceHandlers(platform: Platform): Handler[] {
  const { prices = noPrices } = platform.settings;
  return [
    handler(r.list, async ({ caller, query: filter }) => {
      const conditions = ownedBy(caller, filter);
      if (filter.type) conditions.add("type = $?", filter.type);
      for (const owner of [filter.deployment_id, filter.sandbox_id])
        if (owner) conditions.add("$? = any(owners::text[])", owner);
      const rows = await query<ResourceRow>(
        platform.pool,
        `select everything.*, run.running_seconds, run.cents from (${everything}) everything left join lateral (
           select sum(lasted)::float8 as running_seconds, sum(lasted * ${perSecond(prices)})::float8 as cents
           from (select metered.*, extract(epoch from coalesce(ended_at, now()) - greatest(started_at, now() - interval '30 days')) as lasted
             from metered where resource_type = everything.type and resource_id = everything.id
               and coalesce(ended_at, now()) > now() - interval '30 days') within) run on true
         where ${conditions.sql} order by type, everything.created_at, id limit ${most}`,
        conditions.values,
      );
      return { data: rows.map(view) };
    }),
  ];
}
