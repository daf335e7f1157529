import { webhookRoutes as r } from "@platform/contract";
import { query } from "@platform/postgres";
import { handler, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";

interface EventRow {
  readonly seq: string;
  readonly id: string;
  readonly tenant_id: string;
  readonly type: string;
  readonly resource_type: string;
  readonly resource_id: string | null;
  readonly workspace_id: string | null;
  readonly data: Record<string, unknown>;
  readonly at: Date;
}

const view = (row: EventRow) => ({
  id: row.id,
  seq: Number(row.seq),
  type: row.type,
  event: row.type,
  tenant_id: row.tenant_id,
  workspace_id: row.workspace_id,
  resource_type: row.resource_type,
  resource_id: row.resource_id,
  payload: row.data,
  occurred_at: row.at.toISOString(),
  inserted_at: row.at.toISOString(),
});

/**
 * Stored events in their order. An event shows once every transaction that could still add an earlier
 * one has ended, so that a reader who goes on from the last number misses none.
 */
export function platformEventHandlers(platform: Platform): Handler[] {
  return [
    handler(r.platformEvents, async ({ caller, query: filter }) => {
      const types =
        filter.types
          ?.split(",")
          .map((type) => type.trim())
          .filter(Boolean) ?? [];
      const rows = await query<EventRow>(
        platform.pool,
        `select * from events where tenant_id = $1 and seq > $2 and ($3::uuid is null or workspace_id = $3)
           and (cardinality($4::text[]) = 0 or type = any($4) or split_part(type, '.', 1) || '.*' = any($4))
           and xid < pg_snapshot_xmin(pg_current_snapshot())
         order by seq limit ${filter.limit + 1}`,
        [caller.tenantId, filter.after_seq, caller.workspaceId, types],
      );
      const kept = rows.slice(0, filter.limit);
      return {
        data: kept.map(view),
        next_cursor: rows.length > kept.length ? Number(kept.at(-1)!.seq) : null,
      };
    }),
  ];
}
