import { PlatformError, notFound, workspaceRoutes as r } from "@platform/contract";
import { query, queryOne, transaction, type Queryable } from "@platform/postgres";
import { recordIn } from "../events/index.ts";
import { handler, type Call, type Caller, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { isUuid, slugify } from "./placement.ts";

interface WorkspaceRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly name: string;
  readonly slug: string;
  readonly description: string | null;
  readonly is_default: boolean;
  readonly metadata: Record<string, unknown>;
  readonly created_at: Date;
  readonly updated_at: Date;
}

const view = (row: WorkspaceRow) => ({
  id: row.id,
  tenant_id: row.tenant_id,
  name: row.name,
  slug: row.slug,
  description: row.description,
  is_default: row.is_default,
  metadata: row.metadata,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
});

/**
 * A workspace by id or slug. A key bound to another one does not see it.
 *
 * @throws PlatformError NOT_FOUND
 */
export async function ownWorkspace(db: Queryable, caller: Caller, id: string): Promise<WorkspaceRow> {
  const row = await queryOne<WorkspaceRow>(
    db,
    `select * from workspaces where tenant_id = $1 and ${isUuid(id) ? "id = $2::uuid" : "slug = $2"}`,
    [caller.tenantId, id],
  );
  if (!row || (caller.workspaceId !== null && caller.workspaceId !== row.id))
    throw notFound(`Workspace ${id.slice(0, 100)}`);
  return row;
}

/** @throws PlatformError FORBIDDEN for a key that is bound to one workspace */
export function assertWholeTenant(caller: Caller, what: string): void {
  if (caller.workspaceId === null && caller.externalUserId === null) return;
  throw new PlatformError(
    "FORBIDDEN",
    `${what} concerns the whole tenant, but this key is bound to a part of it. Use the tenant's own key.`,
  );
}

interface Held {
  readonly type: string;
  readonly id: string;
  readonly name: string | null;
  readonly state: string | null;
}

/** Resources that keep a workspace from being deleted. */
const heldIn = (db: Queryable, workspaceId: string) =>
  query<Held>(
    db,
    `select 'sandboxes' as type, id, coalesce(name, slug) as name, state from sandboxes where workspace_id = $1 and state <> 'destroyed'
     union all select 'databases', id, name, state from databases where workspace_id = $1 and state <> 'deleted'
     union all select 'deployments', id, name, state from deployments where workspace_id = $1 and state <> 'deleted'
     order by 1, 3`,
    [workspaceId],
  );

const byType = (held: readonly Held[]) => {
  const groups: Record<string, Omit<Held, "type">[]> = { sandboxes: [], databases: [], deployments: [] };
  for (const { type, ...rest } of held) (groups[type] ??= []).push(rest);
  return groups;
};

const countsOf = (groups: Record<string, unknown[]>) =>
  Object.fromEntries(Object.entries(groups).map(([type, rows]) => [type, rows.length]));

async function inventory(db: Queryable, workspace: WorkspaceRow) {
  const groups: Record<string, unknown[]> = byType(await heldIn(db, workspace.id));
  groups["projects"] = await query(
    db,
    "select id, name, slug, is_default from projects where workspace_id = $1 order by created_at",
    [workspace.id],
  );
  groups["api_keys"] = await query(
    db,
    "select id, name, key_type from api_keys where workspace_id = $1 and kind = 'key' and revoked_at is null order by created_at",
    [workspace.id],
  );
  groups["webhooks"] = await query(
    db,
    "select id, name, active from webhooks where workspace_id = $1 order by created_at",
    [workspace.id],
  );
  return { workspace_id: workspace.id, ...groups, counts: countsOf(groups) };
}

const isTrue = (flag: string | undefined) => flag === "true" || flag === "1";

/** The reconcilers remove what is marked here; the rows point to the workspace until they are gone. */
async function removeIn(db: Queryable, workspace: WorkspaceRow): Promise<void> {
  const again = "generation = generation + 1, next_look_at = now(), updated_at = now()";
  await db.query(
    `update sandboxes set desired = 'destroyed', ${again} where workspace_id = $1 and state <> 'destroyed'`,
    [workspace.id],
  );
  await db.query(
    `update deployments set desired = 'deleted', ${again} where workspace_id = $1 and state <> 'deleted'`,
    [workspace.id],
  );
  await db.query(
    `update databases set desired = 'deleted', ${again} where workspace_id = $1 and state <> 'deleted'`,
    [workspace.id],
  );
  await db.query("update api_keys set revoked_at = now() where workspace_id = $1 and revoked_at is null", [
    workspace.id,
  ]);
  await db.query("delete from runtime_env where workspace_id = $1", [workspace.id]);
  await db.query("delete from workspaces where id = $1", [workspace.id]);
}

async function remove(platform: Platform, call: Call<typeof r.remove>) {
  const { caller, params } = call;
  const isDryRun = isTrue(call.query.dry_run);
  const result = await transaction(platform.pool, async (db) => {
    const workspace = await ownWorkspace(db, caller, params["id"]!);
    await db.query("select 1 from workspaces where id = $1 for update", [workspace.id]);
    const groups = byType(await heldIn(db, workspace.id));
    const counts = countsOf(groups);
    const isEmpty = Object.values(counts).every((count) => count === 0);
    const mayDelete = !workspace.is_default && (isEmpty || isTrue(call.query.force));
    const answer = { id: workspace.id, dry_run: isDryRun, counts, resources: groups };
    if (isDryRun) return { ...answer, deleted: false, would_delete: mayDelete };
    if (workspace.is_default) {
      throw new PlatformError(
        "CONFLICT",
        "The default workspace cannot be deleted: new resources go there. Delete what is in it.",
      );
    }
    if (!mayDelete) {
      throw new PlatformError(
        "CONFLICT",
        `The workspace ${workspace.slug} is not empty. Delete what is in it, or send force=true to delete that too.`,
        { details: { counts } },
      );
    }
    await removeIn(db, workspace);
    await recordIn(db, {
      tenantId: caller.tenantId,
      type: "workspace.deleted",
      resourceType: "workspace",
      resourceId: workspace.id,
      data: { id: workspace.id, name: workspace.name, counts },
    });
    return { ...answer, deleted: true };
  });
  platform.signals.announce("events", "work:sandboxes", "work:deployments", "work:databases");
  return result;
}

const taken = (slug: string) =>
  new PlatformError("NAME_TAKEN", `The slug "${slug}" is in use here. Choose another name or slug.`, {
    details: { slug },
  });

async function create(platform: Platform, call: Call<typeof r.create>): Promise<WorkspaceRow> {
  const { caller, body } = call;
  assertWholeTenant(caller, "Creating a workspace");
  const [id, slug] = [call.idFor("workspace"), body.slug ?? slugify(body.name)];
  const row = await transaction(platform.pool, async (db) => {
    const made = await queryOne<WorkspaceRow>(
      db,
      `insert into workspaces (id, tenant_id, name, slug, description, metadata) values ($1, $2, $3, $4, $5, $6)
       on conflict do nothing returning *`,
      [id, caller.tenantId, body.name, slug, body.description ?? null, body.metadata ?? {}],
    );
    if (!made) {
      return queryOne<WorkspaceRow>(db, "select * from workspaces where id = $1 and tenant_id = $2", [
        id,
        caller.tenantId,
      ]);
    }
    await db.query(
      "insert into projects (id, tenant_id, workspace_id, name, slug, is_default) values ($1, $2, $3, 'Default', 'default', true)",
      [call.idFor("project"), caller.tenantId, id],
    );
    await recordIn(db, {
      tenantId: caller.tenantId,
      type: "workspace.created",
      resourceType: "workspace",
      resourceId: id,
      data: { id, name: made.name, slug },
    });
    return made;
  });
  if (!row) throw taken(slug);
  platform.signals.announce("events");
  return row;
}

export function workspaceHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  return [
    handler(r.list, async ({ caller }) => {
      const rows = await query<WorkspaceRow>(
        pool,
        "select * from workspaces where tenant_id = $1 and ($2::uuid is null or id = $2) order by is_default desc, created_at, id limit 1000",
        [caller.tenantId, caller.workspaceId],
      );
      return rows.map(view);
    }),
    handler(r.create, async (call) => view(await create(platform, call))),
    handler(r.get, async ({ caller, params }) => view(await ownWorkspace(pool, caller, params["id"]!))),
    handler(r.update, async ({ caller, params, body }) => {
      const row = await ownWorkspace(pool, caller, params["id"]!);
      const updated = await queryOne<WorkspaceRow>(
        pool,
        `update workspaces set name = $2, description = $3, metadata = metadata || $4::jsonb, updated_at = now() where id = $1 returning *`,
        [row.id, body.name ?? row.name, body.description ?? row.description, body.metadata ?? {}],
      );
      return view(updated!);
    }),
    handler(r.remove, async (call) => remove(platform, call)),
    handler(r.inventory, async ({ caller, params }) =>
      inventory(pool, await ownWorkspace(pool, caller, params["id"]!)),
    ),
  ];
}

export { taken };
