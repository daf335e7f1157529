import { PlatformError, notFound, sandboxGroupRoutes as r, type BulkAction } from "@platform/contract";
import { query, queryOne, transaction } from "@platform/postgres";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { filtered, ownSandbox, type SandboxRow } from "../sandboxes/index.ts";

const mostTargets = 1000;

interface Target {
  readonly target: string;
  readonly row: SandboxRow | null;
  readonly error: { code: string; message: string } | null;
}

/** What the action makes of one sandbox. */
function wantedOf(action: BulkAction, row: SandboxRow): "running" | "paused" | "destroyed" | null {
  if (action === "pause") return "paused";
  if (action === "resume") return "running";
  if (action === "stop") return row.persistent ? "paused" : "destroyed";
  return action === "extend" ? null : "destroyed";
}

async function targetsOf(platform: Platform, call: Call<typeof r.bulk>): Promise<Target[]> {
  const { ids, filter } = call.body;
  if (filter) {
    const { tags, ...rest } = filter;
    const conditions = filtered(call.caller, { ...rest, ...(tags ? { tags: [tags].flat().join(",") } : {}) });
    const rows = await query<SandboxRow>(
      platform.pool,
      `select * from sandboxes where ${conditions.sql} order by created_at limit ${mostTargets + 1}`,
      conditions.values,
    );
    if (rows.length > mostTargets)
      throw new PlatformError(
        "INVALID_FILTER",
        `The filter matches more than ${mostTargets} sandboxes. Narrow it, or call in parts.`,
      );
    return rows.map((row) => ({ target: row.id, row, error: null }));
  }
  return Promise.all(
    [...new Set(ids)].map(async (target): Promise<Target> => {
      try {
        const row = await ownSandbox(platform.pool, call.caller, target);
        if (
          row.state === "error" &&
          call.params["action"] !== "delete" &&
          call.params["action"] !== "destroy"
        )
          return {
            target,
            row: null,
            error: { code: "SANDBOX_NOT_RUNNING", message: "The sandbox has failed. Recover or delete it." },
          };
        return { target, row, error: null };
      } catch (error) {
        if (!(error instanceof PlatformError)) throw error;
        return { target, row: null, error: { code: error.code, message: error.message } };
      }
    }),
  );
}

/**
 * Marks what came to its end. A sandbox that somebody changed again meanwhile counts as done: what this
 * job asked for is not wanted any more.
 */
export async function settleBulk(platform: Platform, jobId: string | null = null): Promise<void> {
  await platform.pool.query(
    `update bulk_items i set
       state = case when s.state = 'error' and s.generation = i.generation and s.desired <> 'destroyed' then 'failed' else 'completed' end,
       error = case when s.state = 'error' and s.generation = i.generation and s.desired <> 'destroyed'
         then jsonb_build_object('code', 'SANDBOX_NOT_RUNNING', 'message', coalesce(s.last_error->>'message', 'The sandbox failed.')) end
     from sandboxes s where s.id = i.sandbox_id and i.state = 'running' and ($1::uuid is null or i.job_id = $1)
       and (s.state = s.desired or s.state in ('error', 'destroyed') or s.generation <> i.generation)`,
    [jobId],
  );
  await platform.pool.query("delete from bulk_jobs where created_at < now() - interval '7 days'");
}

export function bulkHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  return [
    handler(r.bulk, async (call) => {
      const { caller, body } = call;
      const action = call.params["action"] as BulkAction;
      if (!["pause", "resume", "stop", "extend", "delete", "destroy"].includes(action))
        throw notFound(`The bulk action ${action.slice(0, 50)}`);
      const id = call.idFor("bulk");
      const known = await queryOne<{ n: string }>(
        pool,
        "select (select count(*) from bulk_items where job_id = $1) as n from bulk_jobs where id = $1",
        [id],
      );
      if (known) return { job_id: id, queued: Number(known.n) };
      const targets = await targetsOf(platform, call);
      await transaction(pool, async (db) => {
        await db.query(
          "insert into bulk_jobs (id, tenant_id, workspace_id, external_user_id, action) values ($1, $2, $3, $4, $5)",
          [id, caller.tenantId, caller.workspaceId, caller.externalUserId, action],
        );
        for (const { target, row, error } of targets) {
          const desired = row ? wantedOf(action, row) : null;
          const changed = row
            ? await queryOne<{ generation: string }>(
                db,
                `update sandboxes set generation = generation + 1, next_look_at = now(), updated_at = now(), desired = coalesce($2, desired),
                   timeout_sec = case when $3 then coalesce($4, timeout_sec) else timeout_sec end,
                   expires_at = case when $3 then now() + interval '1 second' * coalesce($4, timeout_sec)
                     when $2 = 'running' then now() + interval '1 second' * timeout_sec else expires_at end
                 where id = $1 and desired <> 'destroyed' returning generation`,
                [row.id, desired, action === "extend", body.timeout_sec ?? null],
              )
            : null;
          await db.query(
            "insert into bulk_items (job_id, target, sandbox_id, generation, state, error) values ($1, $2, $3, $4, $5, $6)",
            [
              id,
              target,
              row?.id ?? null,
              changed?.generation ?? null,
              error ? "failed" : !changed || action === "extend" ? "completed" : "running",
              error ? JSON.stringify(error) : null,
            ],
          );
        }
      });
      platform.signals.announce("work:sandboxes");
      return { job_id: id, queued: targets.length };
    }),
    handler(r.bulkGet, async ({ caller, params }) => {
      const job = await queryOne<{ id: string; action: string }>(
        pool,
        `select id, action from bulk_jobs where tenant_id = $1 and id::text = $2 and ($3::uuid is null or workspace_id = $3)
           and ($4::text is null or external_user_id = $4)`,
        [caller.tenantId, params["jid"], caller.workspaceId, caller.externalUserId],
      );
      if (!job) throw notFound(`Job ${params["jid"]}`);
      await settleBulk(platform, job.id);
      const rows = await query<{
        target: string;
        state: string;
        error: { code: string; message: string } | null;
      }>(pool, "select target, state, error from bulk_items where job_id = $1 order by target", [job.id]);
      const failures = rows.flatMap((row) => (row.error ? [{ id: row.target, ...row.error }] : []));
      return {
        job_id: job.id,
        action: job.action,
        state: rows.some((row) => row.state === "running") ? "running" : "completed",
        total: rows.length,
        completed: rows.filter((row) => row.state === "completed").length,
        failed: failures.length,
        failures,
      };
    }),
  ];
}
