import { platformRoutes as r } from "@platform/contract";
import { query } from "@platform/postgres";
import type { FastifyReply } from "fastify";
import { handler, openEventStream, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";

interface EventRow {
  readonly seq: string;
  readonly id: string;
  readonly type: string;
  readonly resource_type: string;
  readonly resource_id: string | null;
  readonly data: Record<string, unknown>;
  readonly at: Date;
}

interface Filter {
  readonly tenantId: string;
  readonly workspaceId?: string | null;
  readonly resourceId?: string;
  /** Names or `sandbox.*`; empty: all. */
  readonly types?: readonly string[];
  /** Start after this sequence number; null: only what comes from now on. */
  readonly afterSeq: number | null;
}

const matches = (types: readonly string[] | undefined, type: string) =>
  !types ||
  types.length === 0 ||
  types.some(
    (pattern) =>
      pattern === "*" ||
      pattern === type ||
      (pattern.endsWith(".*") && type.startsWith(pattern.slice(0, -1))),
  );

/** Sends stored events as they come, until the client goes away. */
export async function streamEvents(platform: Platform, reply: FastifyReply, filter: Filter): Promise<void> {
  let after =
    filter.afterSeq ??
    Number(
      (await query<{ seq: string }>(platform.pool, "select coalesce(max(seq), 0) as seq from events"))[0]!
        .seq,
    );
  const stream = openEventStream(reply);
  const topic = filter.resourceId ? `events:${filter.resourceId}` : "events";
  while (!stream.signal.aborted) {
    const heard = platform.signals.next(topic, 1_000, stream.signal);
    const rows = await query<EventRow>(
      platform.pool,
      `select * from events where tenant_id = $1 and seq > $2 and ($3::uuid is null or resource_id = $3) and ($4::uuid is null or workspace_id = $4) order by seq limit 200`,
      [filter.tenantId, after, filter.resourceId ?? null, filter.workspaceId ?? null],
    );
    for (const row of rows) {
      after = Number(row.seq);
      if (!matches(filter.types, row.type)) continue;
      const { type: _, ...data } = row.data;
      stream.send(
        row.type,
        {
          id: row.id,
          seq: after,
          resource_type: row.resource_type,
          resource_id: row.resource_id,
          occurred_at: row.at.toISOString(),
          ...data,
          data: row.data,
        },
        row.seq,
      );
    }
    if (rows.length === 0) await heard;
  }
}

export function eventHandlers(platform: Platform): Handler[] {
  return [
    handler(r.eventStream, async ({ caller, query: { types }, request, reply }) => {
      const last = Number(request.headers["last-event-id"]);
      await streamEvents(platform, reply, {
        tenantId: caller.tenantId,
        workspaceId: caller.workspaceId,
        types:
          types
            ?.split(",")
            .map((type) => type.trim())
            .filter(Boolean) ?? [],
        afterSeq: Number.isInteger(last) && last > 0 ? last : null,
      });
    }),
  ];
}
