import { PlatformError, usageRoutes as r } from "@platform/contract";
import { query } from "@platform/postgres";
import { handler, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { Conditions } from "../tenants/index.ts";

interface AuditRow {
  readonly seq: string;
  readonly id: string;
  readonly workspace_id: string | null;
  readonly action: string;
  readonly actor: Record<string, unknown>;
  readonly resource_type: string | null;
  readonly resource_id: string | null;
  readonly status: string;
  readonly ip_address: string | null;
  readonly metadata: Record<string, unknown>;
  readonly at: Date;
}

const view = (row: AuditRow) => ({
  id: row.id,
  type: row.action,
  action: row.action,
  workspace_id: row.workspace_id,
  actor: row.actor,
  resource: { type: row.resource_type, id: row.resource_id },
  ts: row.at.toISOString(),
  status: row.status,
  ip_address: row.ip_address,
  metadata: row.metadata,
});

function positionOf(cursor: string): string {
  if (/^\d{1,18}$/.test(cursor)) return cursor;
  throw new PlatformError("INVALID_FILTER", "after was not made by this API. Start again without it.");
}

const escapeLike = (text: string) => text.replace(/[%_\\]/g, "\\$&");

export function auditHandlers(platform: Platform): Handler[] {
  return [
    handler(r.auditLog, async ({ caller, query: filter }) => {
      const conditions = new Conditions().add("tenant_id = $?", caller.tenantId);
      if (caller.workspaceId) conditions.add("workspace_id = $?", caller.workspaceId);
      if (caller.externalUserId) conditions.add("actor ->> 'id' = $?", caller.keyId);
      if (filter.workspace_id) conditions.add("workspace_id::text = $?", filter.workspace_id);
      const action = filter.action ?? filter.type;
      if (action?.endsWith(".*")) conditions.add("action like $?", `${escapeLike(action.slice(0, -1))}%`);
      else if (action) conditions.add("action = $?", action);
      if (filter.category) {
        conditions.add("(action like $?::text || '.%' or resource_type = $?)", escapeLike(filter.category));
      }
      if (filter.actor_id) conditions.add("actor ->> 'id' = $?", filter.actor_id);
      if (filter.resource_type) conditions.add("resource_type = $?", filter.resource_type);
      if (filter.resource_id) conditions.add("resource_id = $?", filter.resource_id);
      const cursor = filter.after ?? filter.cursor;
      if (cursor) conditions.add("seq < $?::bigint", positionOf(cursor));
      const rows = await query<AuditRow>(
        platform.pool,
        `select * from audit_log where ${conditions.sql} order by seq desc limit ${filter.limit + 1}`,
        conditions.values,
      );
      const kept = rows.slice(0, filter.limit);
      return {
        data: kept.map(view),
        next_cursor: rows.length > kept.length ? String(kept.at(-1)!.seq) : null,
      };
    }),
  ];
}
