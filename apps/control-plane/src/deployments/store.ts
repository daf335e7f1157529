import { PlatformError, notFound } from "@platform/contract";
import { query, queryOne, type Queryable } from "@platform/postgres";
import { mainDatabaseOf } from "../databases/index.ts";
import type { Caller } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import type { Exit } from "./exits.ts";
import { settingsOf } from "./settings.ts";
import {
  deploymentHostname,
  isUuid,
  mayUse,
  publicUrl,
  tenantById,
  type OwnedRow,
} from "../tenants/index.ts";

export type DeploymentState = "pending" | "building" | "running" | "stopped" | "failed" | "deleted";

/** How the last move of the pointer went; `running` until traffic was seen to arrive. */
export interface Promotion {
  /** Of its row among the promotions; absent in rows of older deployments. */
  readonly id?: string;
  readonly kind?: string;
  readonly release_id: string;
  readonly state: "running" | "succeeded" | "failed";
  readonly started_at: string;
  readonly finished_at?: string;
  /** Milliseconds from the call to the first answer through the public name. */
  readonly took_ms?: number;
  readonly warm?: boolean;
  readonly failure?: { code: string; message: string; details: Record<string, unknown> };
  readonly silent_edges?: string[];
}

export interface DeploymentRow extends OwnedRow {
  readonly generation: string;
  readonly name: string;
  readonly slug: string;
  readonly state: DeploymentState;
  readonly desired: "running" | "stopped" | "deleted";
  readonly desired_release_id: string | null;
  readonly active_release_id: string | null;
  readonly active_version_id: string | null;
  readonly running_artifact_sha256: string | null;
  readonly config_version: number;
  readonly source_type: string;
  readonly repo_url: string | null;
  readonly repo_provider: string | null;
  readonly branch: string | null;
  readonly build_command: string | null;
  readonly run_command: string | null;
  readonly auto_deploy: boolean;
  readonly error_message: string | null;
  readonly last_failure: Record<string, unknown> | null;
  readonly promotion: Promotion | null;
  readonly settings: Record<string, unknown>;
  readonly traffic: "on" | "maintenance" | "hold";
  readonly traffic_message: string | null;
  readonly traffic_until: Date | null;
  readonly last_used_at: Date;
  readonly asleep_at: Date | null;
  readonly trial_until: Date | null;
  readonly previous_release_id: string | null;
  readonly promoted_at: Date | null;
}

export interface InstanceRow {
  readonly id: string;
  /** Number among the instances of its release, from 0. */
  readonly slot: number;
  readonly started_at: Date | null;
  readonly healthy_since: Date | null;
  readonly unhealthy_since: Date | null;
  readonly exits: readonly Exit[];
  readonly last_exit_at: Date | null;
  readonly oom_kills: string;
  readonly oom_pending: string;
  readonly verdict: string | null;
  readonly stopping_at: Date | null;
  readonly destroyed_at: Date | null;
  readonly sampled_at: Date | null;
  readonly cpu_micros: string | null;
  readonly deployment_id: string;
  readonly release_id: string;
  readonly box_key: string;
  readonly config_version: number;
  readonly desired_state: string;
  readonly state: "provisioning" | "starting" | "healthy" | "unhealthy" | "error" | "stopped" | "destroyed";
  readonly port: number | null;
  readonly failure: Record<string, unknown> | null;
  readonly restarts: number;
  readonly retire_at: Date | null;
  readonly last_health_check_at: Date | null;
  readonly created_at: Date;
}

export const loadDeployment = (db: Queryable, id: string) =>
  queryOne<DeploymentRow>(db, "select * from deployments where id = $1", [id]);
export const instancesOf = (db: Queryable, id: string) =>
  query<InstanceRow>(
    db,
    "select * from instances where deployment_id = $1 and state <> 'destroyed' order by created_at",
    [id],
  );

/** @throws PlatformError INVALID_ID, NOT_FOUND */
export async function ownDeployment(db: Queryable, caller: Caller, id: string): Promise<DeploymentRow> {
  const row = isUuid(id)
    ? await loadDeployment(db, id)
    : await queryOne<DeploymentRow>(
        db,
        "select * from deployments where tenant_id = $1 and slug = $2 and state <> 'deleted'",
        [caller.tenantId, id],
      );
  if (!row && !isUuid(id))
    throw new PlatformError(
      "INVALID_ID",
      `"${id.slice(0, 100)}" is neither a UUID nor the slug of a deployment. Use an id from GET /deployments.`,
    );
  const visible = row && row.state !== "deleted" && row.desired !== "deleted" && mayUse(caller, row);
  if (!visible) throw notFound(`Deployment ${id}`);
  return row;
}

export async function updateInstance(
  platform: Platform,
  id: string,
  set: Record<string, unknown>,
): Promise<void> {
  const names = Object.keys(set);
  await platform.pool.query(
    `update instances set ${names.map((name, index) => `${name} = $${index + 2}`).join(", ")} where id = $1`,
    [id, ...Object.values(set)],
  );
}

/** @returns false when the row has changed since it was read */
export async function setDeployment(
  platform: Platform,
  row: DeploymentRow,
  set: Record<string, unknown>,
  db: Queryable = platform.pool,
): Promise<boolean> {
  const names = Object.keys(set);
  const result = await db.query(
    `update deployments set updated_at = now()${names.map((name, index) => `, ${name} = $${index + 3}`).join("")} where id = $1 and generation = $2`,
    [row.id, row.generation, ...Object.values(set)],
  );
  platform.signals.announce(`deployment:${row.id}`);
  return result.rowCount === 1;
}

/** An event of the deployment. */
export const eventOf = (row: DeploymentRow, type: string, data: Record<string, unknown> = {}) => ({
  tenantId: row.tenant_id,
  workspaceId: row.workspace_id,
  type,
  resourceType: "deployment",
  resourceId: row.id,
  data: { id: row.id, name: row.name, slug: row.slug, ...data },
});

/** Changes what is wanted; the reconciler does the rest. */
export async function wantDeployment(
  platform: Platform,
  id: string,
  set: Record<string, unknown>,
): Promise<void> {
  const names = Object.keys(set);
  await platform.pool.query(
    `update deployments set generation = generation + 1, next_look_at = now(), updated_at = now()${names.map((name, index) => `, ${name} = $${index + 2}`).join("")} where id = $1`,
    [id, ...Object.values(set)],
  );
  platform.signals.announce("work:deployments");
}

export async function deploymentView(
  platform: Platform,
  row: DeploymentRow,
): Promise<Record<string, unknown>> {
  const tenant = (await tenantById(platform.pool, row.tenant_id))!;
  const custom = await queryOne<{ hostname: string }>(
    platform.pool,
    "select hostname from routes where deployment_id = $1 and kind = 'custom' and target->>'type' <> 'redirect' order by hostname limit 1",
    [row.id],
  );
  return {
    id: row.id,
    tenant_id: row.tenant_id,
    workspace_id: row.workspace_id,
    project_id: row.project_id,
    external_workspace_id: row.external_workspace_id,
    external_user_id: row.external_user_id,
    external_project_id: row.external_project_id,
    name: row.name,
    slug: row.slug,
    state: row.state,
    status: row.state,
    public_url: publicUrl(platform.settings, custom?.hostname ?? deploymentHostname(tenant, row.slug)),
    url: publicUrl(platform.settings, deploymentHostname(tenant, row.slug)),
    active_version_id: row.active_version_id,
    active_release_id: row.active_release_id,
    running_artifact_sha256: row.state === "running" ? row.running_artifact_sha256 : null,
    current_build_id:
      (
        await queryOne<{ id: string }>(
          platform.pool,
          "select id from builds where deployment_id = $1 order by created_at desc limit 1",
          [row.id],
        )
      )?.id ?? null,
    source_type: row.source_type,
    repo_url: row.repo_url,
    repo_provider: row.repo_provider,
    branch: row.branch,
    build_command: row.build_command,
    run_command: row.run_command,
    runtime_image: null,
    auto_deploy: row.auto_deploy,
    auto_subdomain: null,
    custom_domain_id: null,
    linked_database_id: await mainDatabaseOf(platform, { type: "deployment", id: row.id }),
    deployment_product: "miosa_deploy",
    docker_deploy_app: null,
    error_message: row.error_message,
    promotion: row.promotion,
    pending_promotions: await query(
      platform.pool,
      `select id, kind, state, release_id, run_at from promotions where deployment_id = $1
         and state in ('awaiting_approval', 'scheduled', 'queued', 'running') order by seq`,
      [row.id],
    ),
    settings: settingsOf(row),
    instances: settingsOf(row).instances,
    traffic: row.traffic,
    asleep: row.asleep_at !== null,
    trial_until: row.trial_until?.toISOString() ?? null,
    previous_release_id: row.previous_release_id,
    last_failure: row.last_failure,
    metadata: row.metadata,
    created_at: row.created_at.toISOString(),
    inserted_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}

export const instanceView = (
  row: InstanceRow,
  owner: { tenant_id: string },
  settings: { instanceMemoryBytes: number },
) => ({
  id: row.id,
  tenant_id: owner.tenant_id,
  deployment_id: row.deployment_id,
  release_id: row.release_id,
  host_id: null,
  node_id: null,
  vm_id: null,
  slot: row.slot,
  desired_state: row.retire_at ? "stopped" : row.desired_state,
  state: row.state,
  ip_address: null,
  port: row.port,
  last_health_check_at: row.last_health_check_at?.toISOString() ?? null,
  last_heartbeat_at: row.last_health_check_at?.toISOString() ?? null,
  restart_count: row.restarts,
  cpu_limit_millicores: 4000,
  memory_limit_mb: Math.round(settings.instanceMemoryBytes / 1024 / 1024),
  failure: row.failure,
  verdict: row.verdict,
  exits: row.exits,
  healthy_since: row.healthy_since?.toISOString() ?? null,
  retire_at: row.retire_at?.toISOString() ?? null,
  created_at: row.created_at.toISOString(),
});
