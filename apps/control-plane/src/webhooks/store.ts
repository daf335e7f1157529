import { PlatformError, notFound } from "@platform/contract";
import { queryOne, type Queryable } from "@platform/postgres";
import type { Caller } from "../http/index.ts";
import { isUuid } from "../tenants/index.ts";

export interface WebhookRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly workspace_id: string | null;
  readonly url: string;
  readonly events: string[];
  readonly name: string | null;
  readonly description: string | null;
  readonly secret_sealed: Buffer;
  readonly secret_preview: string;
  readonly active: boolean;
  readonly headers_sealed: Buffer | null;
  readonly header_names: string[];
  readonly retry_count: number;
  readonly metadata: Record<string, unknown>;
  readonly created_at: Date;
  readonly updated_at: Date;
}

export type DeliveryState = "pending" | "retrying" | "delivered" | "failed" | "dead_letter";

export interface DeliveryRow {
  readonly id: string;
  readonly webhook_id: string;
  readonly tenant_id: string;
  readonly event_id: string;
  readonly event_type: string;
  readonly data: Record<string, unknown>;
  readonly occurred_at: Date;
  readonly state: DeliveryState;
  readonly response_status: number | null;
  readonly response_body: string | null;
  readonly error: string | null;
  readonly attempts: number;
  readonly next_attempt_at: Date;
  readonly delivered_at: Date | null;
  readonly replay_of: string | null;
  readonly replay_id: string | null;
  readonly created_at: Date;
}

/** Header values may be credentials, so only their names come back. */
export const webhookView = (row: WebhookRow) => ({
  id: row.id,
  tenant_id: row.tenant_id,
  workspace_id: row.workspace_id,
  url: row.url,
  events: row.events,
  name: row.name,
  description: row.description,
  secret_preview: row.secret_preview,
  active: row.active,
  enabled: row.active,
  state: row.active ? "active" : "inactive",
  headers: Object.fromEntries(row.header_names.map((name) => [name, "***"])),
  retry_count: row.retry_count,
  metadata: row.metadata,
  created_at: row.created_at.toISOString(),
  inserted_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
});

export const deliveryView = (row: DeliveryRow) => ({
  id: row.id,
  webhook_id: row.webhook_id,
  event: row.event_type,
  event_type: row.event_type,
  event_id: row.event_id,
  state: row.state,
  status: row.state,
  response_status: row.response_status,
  response_body: row.response_body,
  error_reason: row.error,
  attempts: row.attempts,
  next_retry_at: row.state === "retrying" ? row.next_attempt_at.toISOString() : null,
  delivered_at: row.delivered_at?.toISOString() ?? null,
  inserted_at: row.created_at.toISOString(),
  replay_of: row.replay_of,
  replay_id: row.replay_id,
});

/** @throws PlatformError INVALID_ID, NOT_FOUND */
export async function ownWebhook(db: Queryable, caller: Caller, id: string): Promise<WebhookRow> {
  if (!isUuid(id))
    throw new PlatformError(
      "INVALID_ID",
      `"${id.slice(0, 100)}" is not a UUID. Use an id from GET /webhooks.`,
    );
  const row = await queryOne<WebhookRow>(
    db,
    "select * from webhooks where id = $1 and tenant_id = $2 and ($3::uuid is null or workspace_id = $3)",
    [id, caller.tenantId, caller.workspaceId],
  );
  if (!row) throw notFound(`Webhook ${id}`);
  return row;
}
