import type { DatabaseCredentials, LoginProof, PoolingSeen } from "@platform/host-api";
import { notFound, PlatformError } from "@platform/contract";
import { queryOne, type Queryable } from "@platform/postgres";
import type { Caller } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { isUuid, mayUse, type OwnedRow } from "../tenants/index.ts";

/** `running` is stored only together with a login that succeeded. */
export type DatabaseState =
  "creating" | "running" | "restarting" | "stopping" | "stopped" | "error" | "failed" | "deleted";

export interface DatabaseRow extends OwnedRow {
  readonly generation: string;
  readonly name: string;
  readonly engine: string;
  readonly engine_version: string;
  readonly exact_version: string | null;
  readonly desired: "running" | "stopped" | "deleted";
  readonly state: DatabaseState;
  readonly cpu_count: number;
  readonly memory_mb: number;
  readonly storage_mb: number;
  readonly region: string | null;
  readonly environment_id: string | null;
  readonly host_key: string;
  readonly host: string | null;
  readonly port: number | null;
  readonly proof: LoginProof | null;
  readonly last_error: string | null;
  readonly reason: string | null;
  readonly isolation: { ownUid: boolean; memoryLimit: boolean; diskLimit: boolean } | null;
  readonly action: "restart" | null;
  /** What serves it, in words for people. */
  readonly product: string | null;
  /** Set while credentials that were handed out before a rotation still log in. */
  readonly rotation: Rotation | null;
  /** Where its first content comes from; null: it begins empty. */
  readonly source: {
    readonly backup_id?: string;
    readonly database_id?: string;
    /** With `backup_id`: the moment to which the log leads the copy. */
    readonly target_time?: string;
  } | null;
  readonly backup_policy: BackupPolicy | null;
  readonly backup_state: BackupState | null;
  /** The last change of its major version. */
  readonly upgrade: Upgrade | null;
  /** A branch that ends with this sandbox. */
  readonly owner_sandbox_id: string | null;
  /** As last seen; null for engines without a pooler. */
  readonly pooling: PoolingSeen | null;
}

export interface Upgrade {
  /** `upgrading` and `going_back`: asked for; the others: how it ended. */
  readonly state: "upgrading" | "done" | "failed" | "going_back" | "went_back";
  readonly from: string;
  readonly to: string;
  readonly started_at: string;
  readonly finished_at: string | null;
  readonly reason: string | null;
  readonly last_error: string | null;
  /** Until then the server of the earlier version waits; null: there is no way back. */
  readonly way_back_until: string | null;
  readonly keep_days: number;
}

export interface BackupPolicy {
  readonly every_hours: number;
  /** Scheduled backups that stay. */
  readonly keep: number;
  /** How long a last backup stays when the database is deleted; 0: none is made. */
  readonly final_days: number;
}

/** What the newest attempts say; `failed` from the moment when one failed until one succeeds. */
export interface BackupState {
  readonly status: "ok" | "failed";
  readonly reason: string | null;
  readonly detail: string | null;
  readonly at: string;
  readonly last_ok_at: string | null;
}

export interface Rotation {
  readonly started_at: string;
  /** Both pairs hold at least until then. */
  readonly not_before: string;
  /** Configuration that each linked deployment must serve with, by its id; null before they were given it. */
  readonly deployments: Readonly<Record<string, number>> | null;
}

export const databaseEvent = (row: DatabaseRow, type: string, data: Record<string, unknown> = {}) => ({
  tenantId: row.tenant_id,
  workspaceId: row.workspace_id,
  type,
  resourceType: "database",
  resourceId: row.id,
  data: { id: row.id, name: row.name, engine: row.engine, ...data },
});

/** Wakes whoever waits for the database to change. */
export const announce = (platform: Platform, id: string) => platform.signals.announce(`database:${id}`);

export const loadDatabase = (db: Queryable, id: string) =>
  queryOne<DatabaseRow>(db, "select * from databases where id = $1", [id]);

/** A deleted database that left a backup, as a condition on its row. */
export const hasLeftBackup = `state = 'deleted' and exists (select 1 from database_backups b where b.database_id = databases.id
  and b.state = 'completed' and (b.expires_at is null or b.expires_at > now()))`;

/**
 * @param mayBeDeleted also one that is deleted, as long as it has a backup
 * @throws PlatformError INVALID_ID, NOT_FOUND
 */
export async function ownDatabase(
  db: Queryable,
  caller: Caller,
  id: string,
  mayBeDeleted = false,
): Promise<DatabaseRow> {
  if (!isUuid(id))
    throw new PlatformError(
      "INVALID_ID",
      `"${id.slice(0, 100)}" is not a UUID. Use an id from GET /databases.`,
    );
  const row = await loadDatabase(db, id);
  const isThere =
    row?.state !== "deleted" ||
    (mayBeDeleted &&
      (await queryOne(db, `select 1 from databases where id = $1 and ${hasLeftBackup}`, [id])) !== null);
  if (!row || !isThere || !mayUse(caller, row)) throw notFound(`Database ${id}`);
  return row;
}

export function databaseView(row: DatabaseRow): Record<string, unknown> {
  return {
    id: row.id,
    tenant_id: row.tenant_id,
    workspace_id: row.workspace_id,
    project_id: row.project_id,
    environment_id: row.environment_id,
    external_workspace_id: row.external_workspace_id,
    external_user_id: row.external_user_id,
    external_project_id: row.external_project_id,
    name: row.name,
    state: row.state,
    status: row.state,
    engine: row.engine,
    engine_version: row.engine_version,
    version: row.engine_version,
    exact_version: row.exact_version,
    engine_details: { product: row.product, version: row.exact_version },
    cpu_count: row.cpu_count,
    memory_mb: row.memory_mb,
    storage_mb: row.storage_mb,
    host: row.host,
    port: row.port,
    region: row.region,
    proxy_status: null,
    source: row.source,
    backup_policy: row.backup_policy,
    backup_state: row.backup_state,
    pooling: poolingView(row),
    upgrade: row.upgrade,
    owner_sandbox_id: row.owner_sandbox_id,
    reason: row.reason,
    rotation: row.rotation
      ? { state: "overlapping", started_at: row.rotation.started_at, not_before: row.rotation.not_before }
      : null,
    connection_test: connectionTest(row),
    last_error: row.last_error,
    metadata: row.metadata,
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}

function poolingView({ pooling }: DatabaseRow) {
  if (!pooling) return null;
  const { state, mode, port, reason, detail, at } = pooling;
  return { state, mode, port, reason, last_error: detail, checked_at: at };
}

/** Always from a login with the issued credentials; before the first one there is a `pending`. */
function connectionTest(row: DatabaseRow) {
  if (!row.proof) return { status: "pending", host: row.host, port: row.port, reason: row.reason };
  return {
    status: row.proof.ok ? "ok" : "failed",
    host: row.host,
    port: row.port,
    reason: row.proof.reason,
    checked_at: row.proof.at,
    latency_ms: Math.round(row.proof.latencyMs),
    server_version: row.proof.serverVersion,
    tls: row.proof.tls,
  };
}

export const credentialsView = (credentials: DatabaseCredentials) => ({
  url: credentials.url,
  recommended_url: credentials.url,
  ...(credentials.pooledUrl === null
    ? {}
    : { pooled_url: credentials.pooledUrl, pooled_port: credentials.pooledPort }),
  host: credentials.host,
  port: credentials.port,
  user: credentials.username,
  username: credentials.username,
  password: credentials.password,
  database: credentials.database,
  ssl: { mode: "require", ca_certificate: credentials.caCertificate },
});

export const notReady = (row: DatabaseRow) =>
  new PlatformError(
    "DATABASE_NOT_READY",
    `The database is ${row.state}${row.last_error ? ` (${row.last_error})` : ""}. Retry until its state is running.`,
    {
      details: { state: row.state, reason: row.reason },
      retryAfterMs: 1000,
    },
  );
