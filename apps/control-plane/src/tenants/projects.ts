import { notFound, workspaceRoutes as r } from "@platform/contract";
import { query, queryOne, type Queryable } from "@platform/postgres";
import { handler, type Call, type Caller, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { isUuid, resolvePlacement, slugify } from "./placement.ts";
import { ownWorkspace, taken } from "./workspaces.ts";

export interface ProjectRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly workspace_id: string;
  readonly name: string;
  readonly slug: string;
  readonly description: string | null;
  readonly is_default: boolean;
  readonly created_at: Date;
}

const view = (row: ProjectRow) => ({
  id: row.id,
  name: row.name,
  slug: row.slug,
  workspace_id: row.workspace_id,
  description: row.description,
  is_default: row.is_default,
  created_at: row.created_at.toISOString(),
});

/** @throws PlatformError NOT_FOUND */
export async function ownProject(db: Queryable, caller: Caller, id: string): Promise<ProjectRow> {
  const rows = await query<ProjectRow>(
    db,
    `select * from projects where tenant_id = $1 and ${isUuid(id) ? "id = $2::uuid" : "slug = $2"}
       and ($3::uuid is null or workspace_id = $3) order by is_default desc, created_at limit 1`,
    [caller.tenantId, id, caller.workspaceId],
  );
  if (!rows[0]) throw notFound(`Project ${id.slice(0, 100)}`);
  return rows[0];
}

async function create(platform: Platform, call: Call<typeof r.createProject>): Promise<ProjectRow> {
  const { caller, body } = call;
  const named = body.workspace_id ?? body.workspace_slug;
  const workspaceId = named
    ? (await ownWorkspace(platform.pool, caller, named)).id
    : (await resolvePlacement(platform.pool, caller, {})).workspaceId;
  if (workspaceId === null) throw notFound("A default workspace");
  const [id, slug] = [call.idFor("project"), body.slug ?? slugify(body.name)];
  const made = await queryOne<ProjectRow>(
    platform.pool,
    `insert into projects (id, tenant_id, workspace_id, name, slug, description) values ($1, $2, $3, $4, $5, $6)
     on conflict do nothing returning *`,
    [id, caller.tenantId, workspaceId, body.name, slug, body.description ?? null],
  );
  if (made) return made;
  const first = await queryOne<ProjectRow>(
    platform.pool,
    "select * from projects where id = $1 and tenant_id = $2",
    [id, caller.tenantId],
  );
  if (!first) throw taken(slug);
  return first;
}

export function projectHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  return [
    handler(r.projects, async ({ caller, query: filter }) => {
      const workspace = filter.workspace_id ? await ownWorkspace(pool, caller, filter.workspace_id) : null;
      const rows = await query<ProjectRow>(
        pool,
        "select * from projects where tenant_id = $1 and ($2::uuid is null or workspace_id = $2) order by created_at, id limit 1000",
        [caller.tenantId, workspace?.id ?? caller.workspaceId],
      );
      return rows.map(view);
    }),
    handler(r.createProject, async (call) => view(await create(platform, call))),
    handler(r.project, async ({ caller, params }) => view(await ownProject(pool, caller, params["id"]!))),
  ];
}
