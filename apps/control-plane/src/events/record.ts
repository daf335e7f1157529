import { newId } from "@platform/daemon";
import type { Queryable } from "@platform/postgres";
import type { Platform } from "../platform.ts";

export interface NewEvent {
  readonly tenantId: string;
  /** `<resource>.<past tense>`, such as sandbox.created */
  readonly type: string;
  readonly resourceType: string;
  readonly resourceId: string;
  readonly workspaceId?: string | null;
  /** Seen by tenants: no secret, no inner address. */
  readonly data: Record<string, unknown>;
}

/** Stores the event with the change it tells of; call inside the same transaction. */
export async function recordIn(db: Queryable, event: NewEvent): Promise<void> {
  await db.query(
    `insert into events (id, tenant_id, type, resource_type, resource_id, workspace_id, data) values ($1, $2, $3, $4, $5, $6, $7)`,
    [
      newId(),
      event.tenantId,
      event.type,
      event.resourceType,
      event.resourceId,
      event.workspaceId ?? null,
      event.data,
    ],
  );
}

export async function record(platform: Platform, event: NewEvent): Promise<void> {
  await recordIn(platform.pool, event);
  platform.signals.announce("events", `events:${event.resourceId}`);
}
