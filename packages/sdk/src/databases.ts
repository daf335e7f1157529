import type { Duplex } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { ApiError } from "./error.ts";
import { isUuid, named } from "./find.ts";
import { newIdempotencyKey, type Query, type Transport } from "./transport.ts";
import type { CreateDatabase, Database, DatabaseCredentials } from "./types.ts";

export interface DatabaseBackup {
  readonly id: string;
  readonly state: string;
  readonly kind: string;
  readonly size_bytes: number | null;
  readonly inserted_at: string;
  readonly restored_ok_at: string | null;
  readonly reason: string | null;
}

export interface DatabaseQuery {
  readonly sql: string;
  readonly params?: readonly unknown[];
  readonly read_only?: boolean;
  readonly max_rows?: number;
  readonly timeout_ms?: number;
}
export interface DatabaseQueryResult {
  readonly columns: readonly { readonly name: string; readonly type: string }[];
  readonly rows: readonly Record<string, unknown>[];
  readonly row_count: number | null;
  readonly command: string | null;
  readonly truncated: boolean;
  readonly truncated_by: "rows" | "bytes" | null;
  readonly duration_ms: number;
}
export interface PointInTime {
  readonly enabled: boolean;
  readonly status: string | null;
  readonly earliest: string | null;
  readonly latest: string | null;
  readonly spans: readonly { readonly earliest: string; readonly latest: string }[];
}

interface DatabaseUpgrade {
  readonly state: string;
  readonly last_error: string | null;
}

export class Databases {
  readonly #http: Transport;
  constructor(http: Transport) {
    this.#http = http;
  }

  list = (query?: Query) => this.#http.json<Database[]>("GET", "/databases", { query });
  get = (id: string) => this.#http.json<Database>("GET", `/databases/${encodeURIComponent(id)}`);
  /** By id, or by name for anything that is no id. @throws ApiError NOT_FOUND, or AMBIGUOUS_NAME */
  find = async (idOrName: string): Promise<Database> =>
    isUuid(idOrName) ? this.get(idOrName) : named("database", idOrName, await this.list({ limit: 200 }));
  create = (body: CreateDatabase, idempotencyKey = newIdempotencyKey()) =>
    this.#http.json<Database>("POST", "/databases", {
      body: { engine: "postgresql", ...body },
      idempotencyKey,
    });
  delete = (id: string) => this.#http.json<unknown>("DELETE", `/databases/${encodeURIComponent(id)}`);
  credentials = (id: string) =>
    this.#http.json<DatabaseCredentials>("GET", `/databases/${encodeURIComponent(id)}/credentials`);
  /** @throws ApiError POOLER_UNAVAILABLE while no login through the pooler succeeds */
  pooledCredentials = async (id: string): Promise<DatabaseCredentials> => {
    const credentials = await this.credentials(id);
    if (credentials.pooled_url !== undefined) return credentials;
    const { pooling } = (await this.get(id)) as { pooling?: { state?: string; last_error?: string } | null };
    const why = pooling
      ? `its pooler is ${pooling.state}: ${pooling.last_error ?? ""}`
      : "its engine has no pooler";
    const message = `The database has no pooled URL now (${why}). Use the direct one, or try again.`;
    throw new ApiError({ code: "POOLER_UNAVAILABLE", message, status: 503, retryable: true });
  };
  rotate = (id: string, overlapSec = 0) =>
    this.#http.json<DatabaseCredentials>("POST", `/databases/${encodeURIComponent(id)}/rotate`, {
      body: { overlap_sec: overlapSec },
    });
  backups = (id: string) =>
    this.#http.json<DatabaseBackup[]>("GET", `/databases/${encodeURIComponent(id)}/backups`);
  backup = (id: string, idempotencyKey = newIdempotencyKey()) =>
    this.#http.json<DatabaseBackup>("POST", `/databases/${encodeURIComponent(id)}/backups`, {
      body: {},
      idempotencyKey,
    });
  /** Into a new database; the one that was backed up stays as it is. */
  restore = (id: string, backupId: string, idempotencyKey = newIdempotencyKey()) =>
    this.#http.json<{ id: string; database_id: string; state: string }>(
      "POST",
      `/databases/${encodeURIComponent(id)}/restores`,
      { body: { backup_id: backupId }, idempotencyKey },
    );
  /** The content of a moment, into a new database. @param at ISO 8601 */
  restoreMoment = (id: string, at: string, idempotencyKey = newIdempotencyKey()) =>
    this.#http.json<{ id: string; database_id: string; state: string }>(
      "POST",
      `/databases/${encodeURIComponent(id)}/restores`,
      { body: { target_time: at }, idempotencyKey },
    );
  /** Which moments can be restored. */
  pointInTime = (id: string) =>
    this.#http.json<PointInTime>("GET", `/databases/${encodeURIComponent(id)}/point-in-time`);
  branch = (id: string, name?: string, idempotencyKey = newIdempotencyKey()) =>
    this.#http.json<Database>("POST", `/databases/${encodeURIComponent(id)}/branches`, {
      body: name === undefined ? {} : { name },
      idempotencyKey,
    });
  /** A newer major version; `waitUntilUpgraded` tells when it serves. @param keepDays how long the way back stays */
  upgrade = (id: string, engineVersion: string, keepDays?: number) =>
    this.#http.json<Database>("POST", `/databases/${encodeURIComponent(id)}/upgrade`, {
      body: { engine_version: engineVersion, ...(keepDays === undefined ? {} : { keep_days: keepDays }) },
    });
  /** The server of the earlier version again, without what was written since. */
  undoUpgrade = (id: string) =>
    this.#http.json<Database>("POST", `/databases/${encodeURIComponent(id)}/upgrade/undo`, { body: {} });
  /** Gives up the way back. */
  endUpgrade = (id: string) =>
    this.#http.json<Database>("DELETE", `/databases/${encodeURIComponent(id)}/upgrade`);
  /** @throws ApiError UPGRADE_FAILED when the database stayed on its version; with why */
  waitUntilUpgraded = async (id: string, timeoutMs = 6 * 3_600_000): Promise<Database> => {
    const endsAt = performance.now() + timeoutMs;
    for (;;) {
      const database = await this.get(id);
      const { upgrade = null } = database as { upgrade?: DatabaseUpgrade | null };
      const hasEnded = upgrade !== null && !["upgrading", "going_back"].includes(upgrade.state);
      if (hasEnded && upgrade.last_error !== null)
        throw new ApiError({
          code: "UPGRADE_FAILED",
          message: upgrade.last_error,
          status: 409,
          retryable: false,
        });
      if (hasEnded && database.state === "running") return database;
      if (performance.now() > endsAt) {
        const message = `The database is still ${database.state} after ${Math.round(timeoutMs / 1000)} s. It goes on; look again.`;
        throw new ApiError({ code: "TIMEOUT", message, status: 408, retryable: true });
      }
      await delay(1000);
    }
  };
  query = (id: string, body: DatabaseQuery) =>
    this.#http.json<DatabaseQueryResult>("POST", `/databases/${encodeURIComponent(id)}/query`, { body });
  metrics = (id: string) =>
    this.#http.json<{ current: Record<string, unknown> }>(
      "GET",
      `/databases/${encodeURIComponent(id)}/metrics`,
    );
  /** The bytes of a connection to the database's server: its own protocol, TLS and login included. */
  tunnel = (id: string): Promise<Duplex> => this.#http.tunnel(`/databases/${encodeURIComponent(id)}/tunnel`);
  logs = async (id: string, lines = 100): Promise<string[]> => {
    const body = await this.#http.envelope("GET", `/databases/${encodeURIComponent(id)}/logs`, {
      query: { lines },
    });
    return (body as { lines?: string[] }).lines ?? [];
  };

  /**
   * Polls until the database runs and the server's own login with the issued credentials passed.
   *
   * @param options.timeoutMs default 180 000
   * @throws ApiError DATABASE_FAILED or DATABASE_NOT_READY, with the last state in `details`
   */
  async waitUntilReady(
    id: string,
    options: { timeoutMs?: number; everyMs?: number; onState?: (state: string) => void } = {},
  ): Promise<Database> {
    const endsAt = performance.now() + (options.timeoutMs ?? 180_000);
    for (;;) {
      const database = await this.get(id);
      options.onState?.(database.state);
      if (isReady(database)) return database;
      if (database.state === "failed" || database.state === "error") {
        throw notReady("DATABASE_FAILED", `The database failed: ${reasonOf(database)}.`, database);
      }
      if (performance.now() > endsAt) {
        throw notReady("DATABASE_NOT_READY", `The database is still ${database.state}.`, database);
      }
      await delay(options.everyMs ?? 500);
    }
  }
}

export function isReady(database: Database): boolean {
  const isUp = database.state === "running" || database.state === "available";
  return isUp && (!database.connection_test || database.connection_test.status === "ok");
}

function reasonOf(database: Database): string {
  const error = database.last_error;
  if (typeof error === "string") return error;
  if (error) return JSON.stringify(error);
  return database.connection_test?.reason ?? "no reason was given";
}

function notReady(code: string, message: string, database: Database): ApiError {
  const details = {
    database_id: database.id,
    state: database.state,
    connection_test: database.connection_test,
  };
  return new ApiError({ status: 504, code, message, details });
}
