import { PlatformError, notFound, runtimeEnvRoutes as r } from "@platform/contract";
import { query, queryOne, type Queryable } from "@platform/postgres";
import { handler, type Call, type Caller, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { maskedPreview } from "../seal.ts";
import { assertWholeTenant, isUuid, ownProject, ownWorkspace } from "../tenants/index.ts";

interface EnvRow {
  readonly id: string;
  readonly scope: "tenant" | "workspace" | "project";
  readonly target: string;
  readonly workspace_id: string | null;
  readonly project_id: string | null;
  readonly name: string;
  readonly preview: string;
  readonly enabled: boolean;
  readonly metadata: Record<string, unknown>;
  readonly created_at: Date;
  readonly updated_at: Date;
}

/** Every column but the value: that leaves the database only on its way into a box. */
const columns =
  "id, scope, target, workspace_id, project_id, name, preview, enabled, metadata, created_at, updated_at";

const view = (row: EnvRow) => ({
  id: row.id,
  scope: row.scope,
  target: row.target,
  workspace_id: row.workspace_id,
  project_id: row.project_id,
  name: row.name,
  preview: row.preview,
  enabled: row.enabled,
  metadata: row.metadata,
  created_at: row.created_at.toISOString(),
  updated_at: row.updated_at.toISOString(),
});

/** A key bound to a workspace sees values of that workspace and its projects. */
const visible = `tenant_id = $1 and ($2::uuid is null or workspace_id = $2)`;

const missing = (field: string, scope: string) =>
  new PlatformError("VALIDATION_FAILED", `${field}: is needed with scope ${scope}.`, {
    errors: { [field]: [`is needed with scope ${scope}`] },
  });

async function placeOf(db: Queryable, caller: Caller, body: Call<typeof r.set>["body"]) {
  if (body.scope === "tenant") {
    assertWholeTenant(caller, "A value with scope tenant");
    return { workspaceId: null, projectId: null };
  }
  if (body.scope === "project") {
    if (!body.project_id) throw missing("project_id", "project");
    const project = await ownProject(db, caller, body.project_id);
    return { workspaceId: project.workspace_id, projectId: project.id };
  }
  const id = body.workspace_id ?? caller.workspaceId;
  if (!id) throw missing("workspace_id", "workspace");
  return { workspaceId: (await ownWorkspace(db, caller, id)).id, projectId: null };
}

async function set(platform: Platform, call: Call<typeof r.set>): Promise<EnvRow> {
  const { caller, body } = call;
  const place = await placeOf(platform.pool, caller, body);
  const row = await queryOne<EnvRow>(
    platform.pool,
    `insert into runtime_env (id, tenant_id, scope, target, workspace_id, project_id, name, value_sealed, preview, enabled, metadata)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
     on conflict (tenant_id, scope, coalesce(workspace_id, tenant_id), coalesce(project_id, tenant_id), target, name) do update set
       value_sealed = excluded.value_sealed, preview = excluded.preview, enabled = excluded.enabled, metadata = excluded.metadata, updated_at = now()
     returning ${columns}`,
    [
      call.idFor("runtime-env"),
      caller.tenantId,
      body.scope,
      body.target,
      place.workspaceId,
      place.projectId,
      body.name,
      platform.seal.close(body.value),
      maskedPreview(body.value),
      body.enabled,
      body.metadata,
    ],
  );
  return row!;
}

async function own(db: Queryable, caller: Caller, id: string): Promise<EnvRow> {
  if (!isUuid(id))
    throw new PlatformError(
      "INVALID_ID",
      `"${id.slice(0, 100)}" is not a UUID. Use an id from GET /runtime-env.`,
    );
  const row = await queryOne<EnvRow>(db, `select ${columns} from runtime_env where ${visible} and id = $3`, [
    caller.tenantId,
    caller.workspaceId,
    id,
  ]);
  if (!row) throw notFound(`Runtime value ${id}`);
  return row;
}

export function runtimeEnvHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  return [
    handler(r.list, async ({ caller, query: filter }) => {
      const rows = await query<EnvRow>(
        pool,
        `select ${columns} from runtime_env where ${visible} and ($3::text is null or scope = $3) and ($4::text is null or target = $4)
           and ($5::text is null or workspace_id::text = $5) and ($6::text is null or project_id::text = $6)
         order by name, created_at limit 1000`,
        [
          caller.tenantId,
          caller.workspaceId,
          filter.scope ?? null,
          filter.target ?? null,
          filter.workspace_id ?? null,
          filter.project_id ?? null,
        ],
      );
      return rows.map(view);
    }),
    handler(r.set, async (call) => view(await set(platform, call))),
    handler(r.get, async ({ caller, params }) => view(await own(pool, caller, params["id"]!))),
    handler(r.remove, async ({ caller, params }) => {
      const row = await own(pool, caller, params["id"]!);
      await pool.query("delete from runtime_env where id = $1", [row.id]);
      return { id: row.id, deleted: true };
    }),
  ];
}
