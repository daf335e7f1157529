import { faultPoint } from "@platform/daemon";
import { HostError } from "@platform/host-api";
import { queryOne } from "@platform/postgres";
import { derivedId } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import type { SandboxContent, SandboxRow } from "./store.ts";

/** Milliseconds until the next look of a sandbox that waits for another one's step. */
const othersMs = 500;

export type Copied =
  | { readonly type: "ready" }
  | { readonly type: "wait"; readonly ms: number }
  | { readonly type: "failed"; readonly reason: string; readonly message: string };

/** Makes the copy that a fork, a recovery or a restart from disk begins with; the first of a group does it for all. */
export async function takeCopy(platform: Platform, row: SandboxRow, signal: AbortSignal): Promise<Copied> {
  if (row.content.type !== "snapshot" || row.content.from === undefined) return { type: "ready" };
  const { snapshotKey, from } = row.content;
  const first = await queryOne<{ id: string }>(
    platform.pool,
    `select id from sandboxes where content->>'snapshotKey' = $1 and content ? 'from' and state = 'provisioning' and desired <> 'destroyed'
     order by group_index nulls first limit 1`,
    [snapshotKey],
  );
  if (first && first.id !== row.id) return { type: "wait", ms: othersMs };
  try {
    await platform.host.putSnapshot(snapshotKey, from, signal);
  } catch (error) {
    if (!(error instanceof HostError) || error.code === "UNREACHABLE" || error.code === "INTERNAL")
      throw error;
    return error.code === "NOT_FOUND"
      ? {
          type: "failed",
          reason: "source_gone",
          message: "The sandbox to be copied is gone. Fork another one.",
        }
      : {
          type: "failed",
          reason: error.code.toLowerCase(),
          message: `Its files could not be copied: ${error.message}`,
        };
  }
  faultPoint("control-plane.sandbox.copied");
  const { rows } = await platform.pool.query<{ id: string }>(
    `update sandboxes set content = content - 'from', next_look_at = now() where content->>'snapshotKey' = $1 and content ? 'from' returning id`,
    [snapshotKey],
  );
  platform.signals.announce("work:sandboxes", ...rows.map(({ id }) => `sandbox:${id}`));
  return { type: "ready" };
}

/** Removes a copy once no sandbox is still to be made of it. */
export async function dropCopy(platform: Platform, row: SandboxRow, signal?: AbortSignal): Promise<void> {
  if (row.content.type !== "snapshot" || !row.content.temporary) return;
  const waiting = await queryOne(
    platform.pool,
    `select 1 from sandboxes where id <> $1 and content->>'snapshotKey' = $2 and state = 'provisioning'`,
    [row.id, row.content.snapshotKey],
  );
  if (!waiting) await platform.host.deleteSnapshot(row.content.snapshotKey, signal);
}

/** Milliseconds to wait while others of the group start; null: it is this one's turn. */
export async function groupTurn(platform: Platform, row: SandboxRow): Promise<number | null> {
  if (!row.group_id || row.group_limit === null) return null;
  const ahead = await queryOne<{ n: string }>(
    platform.pool,
    `select count(*) as n from sandboxes where group_id = $1 and group_index < $2 and state = 'provisioning' and desired <> 'destroyed'`,
    [row.group_id, row.group_index],
  );
  return Number(ahead!.n) >= row.group_limit ? othersMs : null;
}

/** Lets the next of the group start at once. */
export async function passTurn(platform: Platform, row: SandboxRow): Promise<void> {
  if (!row.group_id) return;
  await platform.pool.query(
    `update sandboxes set next_look_at = now() where id in
       (select id from sandboxes where group_id = $1 and state = 'provisioning' and lease_holder is null order by group_index limit $2)`,
    [row.group_id, row.group_limit],
  );
  platform.signals.announce("work:sandboxes", `group:${row.group_id}`);
}

/**
 * The next box of a sandbox, named after the one before it: a repeat finds the same name.
 *
 * @param cause what makes it be another box, such as the id of a restore
 */
export const nextBoxKey = (row: Pick<SandboxRow, "id">, cause: string): string =>
  `sb-${row.id.slice(0, 23)}-${derivedId(row.id, cause).slice(0, 8)}`;

/** Starts the sandbox again from the disk of a box that ended without a fault of its own. */
export async function restartFromDisk(platform: Platform, row: SandboxRow): Promise<void> {
  const boxKey = nextBoxKey(row, row.box_key);
  const content: SandboxContent = {
    type: "snapshot",
    snapshotKey: `again-${boxKey}`,
    temporary: true,
    from: row.box_key,
  };
  await platform.pool.query(
    `update sandboxes set generation = generation + 1, state = 'provisioning', ready = false, box_key = $3, content = $4, next_look_at = now(),
       updated_at = now(), run_seconds = run_seconds + coalesce(extract(epoch from now() - running_since), 0), running_since = null
     where id = $1 and generation = $2`,
    [row.id, row.generation, boxKey, JSON.stringify(content)],
  );
  platform.signals.announce("work:sandboxes", `sandbox:${row.id}`);
}
