import type { Box, BoxNotice } from "@platform/host-api";
import { query, transaction } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import type { Platform } from "../platform.ts";

interface Row {
  readonly id: string;
  readonly tenant_id: string;
  readonly workspace_id: string;
  readonly box_key: string;
  readonly troubles_seen: Readonly<Record<string, string>>;
}

const eventTypes = { oom: "sandbox.oom", disk_full: "sandbox.disk_full" } as const;

/** What makes a notice the same one when it is seen again, also from a host that was started anew. */
const mark = (box: Box, notice: BoxNotice): string =>
  notice.type === "oom" ? `${box.createdAt} ${String(notice.evidence["totalKills"])}` : notice.at;

const snake = (evidence: Record<string, unknown>) =>
  Object.fromEntries(
    Object.entries(evidence).map(([name, value]) => [
      name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      value,
    ]),
  );

/** Turns what hosts noticed of sandboxes that run on (a program killed, a full disk) into events, each once. */
export async function tellTroubles(platform: Platform): Promise<void> {
  const boxes = (await platform.host.boxes()).filter(({ notices }) => notices.length > 0);
  if (boxes.length === 0) return;
  const rows = await query<Row>(
    platform.pool,
    `select id, tenant_id, workspace_id, box_key, troubles_seen from sandboxes where box_key = any($1)`,
    [boxes.map(({ key }) => key)],
  );
  const byKey = new Map(boxes.map((box) => [box.key, box]));
  for (const row of rows) {
    const box = byKey.get(row.box_key);
    for (const type of ["oom", "disk_full"] as const) {
      const newest = box?.notices.findLast((notice) => notice.type === type);
      if (!box || !newest || row.troubles_seen[type] === mark(box, newest)) continue;
      await tell(platform, row, newest, mark(box, newest));
    }
  }
}

async function tell(platform: Platform, row: Row, notice: BoxNotice, seen: string): Promise<void> {
  const isMine = await transaction(platform.pool, async (db) => {
    const { rowCount } = await db.query(
      `update sandboxes set troubles_seen = troubles_seen || jsonb_build_object($2::text, $3::text)
       where id = $1 and troubles_seen ->> $2 is distinct from $3`,
      [row.id, notice.type, seen],
    );
    if (rowCount === 0) return false;
    await recordIn(db, {
      tenantId: row.tenant_id,
      type: eventTypes[notice.type],
      resourceType: "sandbox",
      resourceId: row.id,
      workspaceId: row.workspace_id,
      data: { id: row.id, detail: notice.detail, occurred_at: notice.at, evidence: snake(notice.evidence) },
    });
    return true;
  });
  if (isMine) platform.signals.announce("events", `events:${row.id}`);
}
