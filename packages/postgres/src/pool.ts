import { Pool, type PoolClient, type QueryResultRow } from "pg";
import { loginOptions, parsePostgresUrl } from "./connection-options.ts";

export interface PoolOptions {
  /** Most connections at once. */
  max?: number;
  applicationName?: string;
  /** Longest time for one statement, in milliseconds. */
  statementTimeoutMs?: number;
  /** Told about connections that fail while idle; the pool replaces them by itself. */
  onError?: (error: Error) => void;
}

/** A pool that survives the death of its server: lost idle connections are reported, never thrown. */
export function createPool(url: string, options: PoolOptions = {}): Pool {
  const pool = new Pool({
    ...loginOptions({
      ...parsePostgresUrl(url),
      applicationName: options.applicationName,
      statementTimeoutMs: options.statementTimeoutMs ?? 30_000,
    }),
    max: options.max ?? 10,
    idleTimeoutMillis: 30_000,
    allowExitOnIdle: true,
  });
  const report = options.onError ?? (() => undefined);
  pool.on("error", report);
  // A connection that dies while checked out emits on the client, not on the pool.
  pool.on("connect", (client) => client.on("error", report));
  return pool;
}

export type Queryable = Pick<Pool | PoolClient, "query">;

/** Rows of one statement. `T` is the caller's claim about their shape. */
export async function query<T extends QueryResultRow>(
  database: Queryable,
  text: string,
  params: readonly unknown[] = [],
): Promise<T[]> {
  const result = await database.query<T>(text, [...params]);
  return result.rows;
}

/** The single row of a statement, or `null` when there is none. */
export async function queryOne<T extends QueryResultRow>(
  database: Queryable,
  text: string,
  params: readonly unknown[] = [],
): Promise<T | null> {
  const rows = await query<T>(database, text, params);
  if (rows.length > 1) throw new Error(`expected at most one row, got ${rows.length}`);
  return rows[0] ?? null;
}

const retryableStates = new Set(["40001", "40P01"]);

/**
 * Runs `work` in a transaction; all of it runs again, up to three times, after a serialization
 * failure or deadlock, so it must have no effects outside the database.
 */
export async function transaction<T>(
  pool: Pool,
  work: (client: PoolClient) => Promise<T>,
  options: { isolation?: "read committed" | "repeatable read" | "serializable" } = {},
): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await runOnce(pool, work, options.isolation ?? "read committed");
    } catch (error) {
      const { code } = error as { code?: string };
      if (attempt >= 3 || !code || !retryableStates.has(code)) throw error;
    }
  }
}

async function runOnce<T>(
  pool: Pool,
  work: (client: PoolClient) => Promise<T>,
  isolation: string,
): Promise<T> {
  const client = await pool.connect();
  let broken: Error | undefined;
  try {
    await client.query(`begin isolation level ${isolation}`);
    const value = await work(client);
    await client.query("commit");
    return value;
  } catch (error) {
    await client.query("rollback").catch((failure: Error) => {
      broken = failure;
    });
    throw error;
  } finally {
    client.release(broken);
  }
}
