import { transaction } from "@platform/postgres";
import type { Pool } from "pg";
import { workspaceCategories } from "./catalogue.ts";

const batch = 500;

/**
 * Turns stored events into deliveries, each event once for each webhook that wants it. The position moves
 * in the same transaction as the rows are made, so a crash repeats nothing and skips nothing; a second
 * control plane waits at the position's row.
 *
 * Only events of transactions older than every running one are read: later ones could still be preceded
 * by an event that is not visible yet.
 *
 * @returns whether there may be more
 */
export function fanOut(pool: Pool): Promise<boolean> {
  return transaction(pool, async (db) => {
    const position = await db.query<{ xid: string; seq: string }>(
      "select xid::text, seq::text from webhook_cursor for update skip locked",
    );
    const from = position.rows[0];
    if (!from) return false;
    const events = await db.query<{ id: string; xid: string; seq: string }>(
      `select id, xid::text, seq::text from events
       where (xid, seq) > ($1::xid8, $2::bigint) and xid < pg_snapshot_xmin(pg_current_snapshot())
       order by events.xid, events.seq limit ${batch}`,
      [from.xid, from.seq],
    );
    const last = events.rows.at(-1);
    if (!last) return false;
    await db.query(
      `insert into webhook_deliveries (webhook_id, tenant_id, event_id, event_type, data, occurred_at)
       select w.id, e.tenant_id, e.id, e.type,
         e.data || jsonb_build_object('resource_type', e.resource_type, 'resource_id', e.resource_id, 'workspace_id', e.workspace_id), e.at
       from events e join webhooks w on w.tenant_id = e.tenant_id and w.active and e.at >= w.created_at
       where e.id = any($1::uuid[])
         and (w.workspace_id is null or (w.workspace_id = e.workspace_id and split_part(e.type, '.', 1) = any($2::text[])))
         and (w.events = '{}' or '*' = any(w.events) or e.type = any(w.events) or split_part(e.type, '.', 1) || '.*' = any(w.events))
       order by e.seq
       on conflict (webhook_id, event_id) where replay_of is null do nothing`,
      [events.rows.map(({ id }) => id), workspaceCategories],
    );
    await db.query("update webhook_cursor set xid = $1::xid8, seq = $2::bigint", [last.xid, last.seq]);
    return events.rows.length === batch;
  });
}
