import { newId } from "@platform/daemon";
import { notFound } from "@platform/contract";
import { queryOne, type Queryable } from "@platform/postgres";
import type { Caller } from "../http/index.ts";

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
export const isUuid = (text: string): boolean => uuid.test(text);

export const slugify = (name: string): string =>
  name
    .toLowerCase()
    .normalize("NFKD")
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 40)
    .replace(/-+$/, "") || "item";

interface Wanted {
  readonly workspace_id?: string | undefined;
  readonly workspace_slug?: string | undefined;
  readonly workspace_name?: string | undefined;
  readonly project_id?: string | undefined;
  readonly project_slug?: string | undefined;
  readonly project_name?: string | undefined;
}

interface Row {
  readonly id: string;
}

async function findOrCreateWorkspace(db: Queryable, caller: Caller, wanted: Wanted): Promise<string | null> {
  const name = wanted.workspace_slug ?? wanted.workspace_name;
  if (caller.workspaceId) return caller.workspaceId;
  if (wanted.workspace_id) {
    const row = await queryOne<Row>(
      db,
      "select id from workspaces where tenant_id = $1 and (id::text = $2 or slug = $2)",
      [caller.tenantId, wanted.workspace_id],
    );
    if (!row) throw notFound(`Workspace ${wanted.workspace_id}`);
    return row.id;
  }
  if (!name) {
    const row = await queryOne<Row>(
      db,
      "select id from workspaces where tenant_id = $1 and is_default limit 1",
      [caller.tenantId],
    );
    return row?.id ?? null;
  }
  const row = await queryOne<Row>(
    db,
    `insert into workspaces (id, tenant_id, name, slug) values ($1, $2, $3, $4) on conflict (tenant_id, slug) do update set slug = excluded.slug returning id`,
    [newId(), caller.tenantId, wanted.workspace_name ?? name, slugify(name)],
  );
  return row?.id ?? null;
}

/** Resolves or creates the workspace and project that a create call names. */
export async function resolvePlacement(
  db: Queryable,
  caller: Caller,
  wanted: Wanted,
): Promise<{ workspaceId: string | null; projectId: string | null }> {
  const workspaceId = await findOrCreateWorkspace(db, caller, wanted);
  const name = wanted.project_slug ?? wanted.project_name;
  if (wanted.project_id) {
    const row = await queryOne<Row>(
      db,
      "select id from projects where tenant_id = $1 and (id::text = $2 or slug = $2) limit 1",
      [caller.tenantId, wanted.project_id],
    );
    if (!row) throw notFound(`Project ${wanted.project_id}`);
    return { workspaceId, projectId: row.id };
  }
  if (!name || !workspaceId) return { workspaceId, projectId: null };
  const row = await queryOne<Row>(
    db,
    `insert into projects (id, tenant_id, workspace_id, name, slug) values ($1, $2, $3, $4, $5)
     on conflict (workspace_id, slug) do update set slug = excluded.slug returning id`,
    [newId(), caller.tenantId, workspaceId, wanted.project_name ?? name, slugify(name)],
  );
  return { workspaceId, projectId: row?.id ?? null };
}
