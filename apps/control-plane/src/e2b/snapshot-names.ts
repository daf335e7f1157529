import { queryOne, transaction } from "@platform/postgres";
import { createSnapshot, ownSnapshot, type SnapshotRow, type SnapshotWanted } from "../snapshots/index.ts";
import type { SandboxRow } from "../sandboxes/index.ts";
import { ClientProblem } from "./problem.ts";
import type { ClientCall } from "./route.ts";

/** Names and ids come with a tag; there is only the one. */
const tag = ":default";
export const withTag = (id: string): string => `${id}${tag}`;

export const withoutTag = (text: string) => (text.endsWith(tag) ? text.slice(0, -tag.length) : text);
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export const assertName = (name: string): string => {
  if (/^[a-z0-9][a-z0-9_-]{0,127}(:default)?$/.test(name)) return withoutTag(name);
  throw new ClientProblem(400, "name: has lower-case letters, digits, - and _, at most 128.");
};

/** By id, or by name: then the newest. Null when the caller has none. */
export async function findSnapshot(call: ClientCall, wanted: string): Promise<SnapshotRow | null> {
  const name = withoutTag(wanted);
  const named = uuid.test(name)
    ? { id: name }
    : await queryOne<{ id: string }>(
        call.platform.pool,
        `select snapshot_id as id from e2b_snapshot_names where tenant_id = $1 and name = $2
         order by created_at desc limit 1`,
        [call.caller.tenantId, name],
      );
  if (!named) return null;
  return ownSnapshot(call.platform, call.own({}), named.id).catch((error: unknown) => {
    if ((error as { code?: string }).code === "NOT_FOUND") return null;
    throw error;
  });
}

export async function makeSnapshot(
  call: ClientCall,
  row: SandboxRow,
  wanted: SnapshotWanted & { readonly name?: string },
): Promise<SnapshotRow> {
  const { name, ...rest } = wanted;
  const made = await createSnapshot(call.platform, call.own({ id: row.id }), rest);
  if (name !== undefined)
    await transaction(call.platform.pool, (db) =>
      db.query(
        "insert into e2b_snapshot_names (snapshot_id, tenant_id, name) values ($1, $2, $3) on conflict do nothing",
        [made.id, row.tenant_id, name],
      ),
    );
  return made;
}
