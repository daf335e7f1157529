import { previewRoutes as r, type ConsoleLine } from "@platform/contract";
import type { ConsoleBatch, ConsoleEntry } from "@platform/edge-api";
import { query, queryOne, transaction } from "@platform/postgres";
import { recordIn, streamEvents } from "../events/index.ts";
import { handler, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { ownSandbox } from "../sandboxes/index.ts";

/** Events of one sandbox that are kept, for a day. */
const mostEvents = 1_000;
const levels = ["debug", "log", "info", "warn", "error"] as const;

interface Owner {
  readonly id: string;
  readonly sandbox_id: string;
  readonly tenant_id: string;
  readonly workspace_id: string;
  readonly port: number;
}

interface ConsoleData {
  readonly preview_id: string;
  readonly port: number;
  readonly entries: readonly ConsoleEntry[];
  readonly dropped: number;
}

/**
 * Turns what edges heard into events. A batch whose host name is no preview of its sandbox, or of one that is
 * not listened to any more, is left out.
 */
export async function storeConsole(platform: Platform, batches: readonly ConsoleBatch[]): Promise<void> {
  const owners = await query<Owner & { hostname: string }>(
    platform.pool,
    `select p.hostname, p.id, p.sandbox_id, p.port, p.tenant_id, s.workspace_id from previews p join sandboxes s on s.id = p.sandbox_id
     where p.hostname = any($1) and s.state <> 'destroyed'
       and exists (select from routes r where r.hostname = p.hostname and r.target @> '{"console": true}')`,
    [batches.map(({ hostname }) => hostname)],
  );
  const byHostname = new Map(owners.map((owner) => [owner.hostname, owner]));
  const told = new Set<string>();
  await transaction(platform.pool, async (db) => {
    for (const { hostname, sandboxId, entries, dropped } of batches) {
      const owner = byHostname.get(hostname);
      if (owner?.sandbox_id !== sandboxId || (entries.length === 0 && dropped === 0)) continue;
      await recordIn(db, {
        tenantId: owner.tenant_id,
        type: "preview.console",
        resourceType: "sandbox",
        resourceId: sandboxId,
        workspaceId: owner.workspace_id,
        data: {
          ...{ id: owner.id, preview_id: owner.id, sandbox_id: sandboxId, port: owner.port },
          ...{ hostname, entries, dropped },
        },
      });
      told.add(sandboxId);
    }
  });
  for (const id of told) platform.signals.announce("events", `events:${id}`);
}

/** What browsers said is kept for a day, and of each sandbox the newest. */
export async function trimConsole(platform: Platform): Promise<void> {
  await platform.pool.query(
    `delete from events e using (
       select seq, row_number() over (partition by resource_id order by seq desc) as place, at from events where type = 'preview.console') old
     where e.seq = old.seq and (old.at < now() - interval '24 hours' or old.place > ${mostEvents})`,
  );
}

export function consoleHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  return [
    handler(r.console, async ({ caller, params, query: { limit, level } }) => {
      const sandbox = await ownSandbox(pool, caller, params["id"]!);
      const newest = await queryOne<{ seq: string }>(pool, "select coalesce(max(seq), 0) as seq from events");
      // An event has an entry or a count of those left out, so this many are enough.
      const rows = await query<{ seq: string; data: ConsoleData }>(
        pool,
        `select seq, data from events where type = 'preview.console' and resource_id = $1 and seq <= $2 order by seq desc limit ${mostEvents}`,
        [sandbox.id, newest!.seq],
      );
      const wanted = new Set<string>(level ? levels.slice(levels.indexOf(level)) : levels);
      const lines: ConsoleLine[] = [];
      let dropped = 0;
      for (const { seq, data } of rows) {
        if (lines.length >= limit) break;
        dropped += data.dropped;
        const { preview_id, port } = data;
        for (const entry of data.entries.toReversed())
          if (wanted.has(entry.level) && lines.length < limit)
            lines.push({ seq: Number(seq), preview_id, port, ...entry });
      }
      return { lines: lines.reverse(), dropped, cursor: Number(newest!.seq) };
    }),
    handler(r.consoleStream, async ({ caller, params, request, reply }) => {
      const sandbox = await ownSandbox(pool, caller, params["id"]!);
      const last = Number(request.headers["last-event-id"]);
      await streamEvents(platform, reply, {
        tenantId: caller.tenantId,
        resourceId: sandbox.id,
        types: ["preview.console"],
        afterSeq: Number.isInteger(last) && last > 0 ? last : null,
      });
    }),
  ];
}
