import { CreateSandbox, PlatformError, notFound, sandboxGroupRoutes as r } from "@platform/contract";
import { query, queryOne } from "@platform/postgres";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { storeSandboxes } from "../sandboxes/index.ts";

interface BatchRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly workspace_id: string | null;
  readonly external_user_id: string | null;
  readonly requested_count: number;
  readonly concurrency_limit: number;
  readonly cancelled_at: Date | null;
  readonly created_at: Date;
}

interface Member {
  readonly id: string;
  readonly group_index: number;
  readonly name: string | null;
  readonly state: string;
  readonly desired: string;
  readonly ready: boolean;
  readonly last_error: { reason: string; message: string } | null;
}

const members = (platform: Platform, batchId: string) =>
  query<Member>(
    platform.pool,
    "select id, group_index, name, state, desired, ready, last_error from sandboxes where group_id = $1 order by group_index",
    [batchId],
  );

type Counts = Record<"starting" | "ready" | "failed" | "destroyed", number>;

/** Said from what became of each sandbox, never from what was asked. */
export function statusOf(counts: Counts, isCancelled: boolean) {
  if (isCancelled) return counts.starting > 0 ? "cancelling" : "cancelled";
  if (counts.starting > 0) return "running";
  if (counts.failed === 0) return "completed";
  return counts.ready + counts.destroyed > 0 ? "partial" : "failed";
}

function viewOf(row: BatchRow, rows: readonly Member[]) {
  const count = (...states: string[]) => rows.filter((one) => states.includes(one.state)).length;
  const counts: Counts = {
    starting: count("provisioning"),
    ready: count("running", "paused"),
    failed: count("error"),
    destroyed: count("destroyed"),
  };
  return {
    id: row.id,
    status: statusOf(counts, row.cancelled_at !== null),
    requested_count: row.requested_count,
    concurrency_limit: row.concurrency_limit,
    starting_count: counts.starting,
    ready_count: counts.ready,
    failed_count: counts.failed,
    destroyed_count: counts.destroyed,
    created_at: row.created_at.toISOString(),
  };
}

export function batchHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const own = async ({ caller, params }: Pick<Call, "caller" | "params">): Promise<BatchRow> => {
    const row = await queryOne<BatchRow>(
      pool,
      `select * from sandbox_batches where tenant_id = $1 and id::text = $2 and ($3::uuid is null or workspace_id = $3)
         and ($4::text is null or external_user_id = $4)`,
      [caller.tenantId, params["bid"], caller.workspaceId, caller.externalUserId],
    );
    if (!row) throw notFound(`Batch ${params["bid"]}`);
    return row;
  };
  return [
    handler(r.batch, async (call) => {
      const { body, caller } = call;
      const id = call.idFor("batch");
      const plans = Array.from({ length: body.count }, (_, index) => ({
        id: call.idFor(`sandbox-${index}`),
        input: CreateSandbox.parse({
          template_id: body.template_id,
          size: body.size,
          name: body.name_prefix === undefined ? undefined : `${body.name_prefix}-${index + 1}`,
          setup_file: body.setup_file,
          env: body.environment,
          timeout_sec: body.timeout_sec,
          metadata: body.metadata,
        }),
        group: { id, index, limit: body.concurrency },
      }));
      // The batch and its sandboxes are stored together: a crash leaves all of them or none.
      await storeSandboxes(platform, call as unknown as Call, plans, async (db) => {
        await db.query(
          `insert into sandbox_batches (id, tenant_id, workspace_id, external_user_id, requested_count, concurrency_limit)
           values ($1, $2, $3, $4, $5, $6) on conflict (id) do nothing`,
          [id, caller.tenantId, caller.workspaceId, caller.externalUserId, body.count, body.concurrency],
        );
      });
      const row = (await queryOne<BatchRow>(pool, "select * from sandbox_batches where id = $1", [id]))!;
      return viewOf(row, await members(platform, id));
    }),
    handler(r.batchGet, async (call) => {
      const row = await own(call);
      return viewOf(row, await members(platform, row.id));
    }),
    handler(r.batchItems, async (call) => {
      const row = await own(call);
      return (await members(platform, row.id)).slice(0, call.query.limit).map((one) => ({
        index: one.group_index,
        sandbox_id: one.id,
        name: one.name,
        state: one.state,
        ready: one.ready && one.state === "running",
        error: one.last_error,
      }));
    }),
    handler(r.batchCancel, async (call) => {
      const row = await own(call);
      const before = viewOf(row, await members(platform, row.id));
      if (before.status !== "running")
        throw new PlatformError(
          "BATCH_ALREADY_TERMINAL",
          `The batch is ${before.status}: nothing is left to be cancelled.`,
          {
            details: { status: before.status },
          },
        );
      await pool.query("update sandbox_batches set cancelled_at = now() where id = $1", [row.id]);
      await pool.query(
        `update sandboxes set desired = 'destroyed', generation = generation + 1, next_look_at = now(), updated_at = now()
         where group_id = $1 and state = 'provisioning'`,
        [row.id],
      );
      platform.signals.announce("work:sandboxes");
      return viewOf({ ...row, cancelled_at: new Date() }, await members(platform, row.id));
    }),
  ];
}
