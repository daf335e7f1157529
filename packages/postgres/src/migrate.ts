import { createHash } from "node:crypto";
import type { Pool } from "pg";
import { query, queryOne, transaction } from "./pool.ts";

export interface Migration {
  /** Unique and stable, such as `0001-sandboxes`. */
  name: string;
  sql: string;
}

/** Any fixed number: all programs that migrate one database must share it. */
const migrationLock = 7_012_024_001;

/**
 * Applies what is missing, in order, each in a transaction of its own, so that a failure leaves the
 * ones before it applied and itself not at all. Programs that start at once take turns.
 *
 * @returns names that this call applied
 * @throws Error if an applied migration's text has changed since
 */
export async function migrate(pool: Pool, migrations: readonly Migration[]): Promise<string[]> {
  const names = new Set(migrations.map(({ name }) => name));
  if (names.size !== migrations.length) throw new Error("two migrations have the same name");
  const applied: string[] = [];
  for (const migration of migrations) if (await apply(pool, migration)) applied.push(migration.name);
  return applied;
}

function apply(pool: Pool, { name, sql }: Migration): Promise<boolean> {
  const hash = createHash("sha256").update(sql).digest("hex");
  return transaction(pool, async (client) => {
    // Waiting for another starter, or building an index, may take longer than any request.
    await client.query("set local statement_timeout = 0");
    await client.query("select pg_advisory_xact_lock($1)", [migrationLock]);
    await client.query(
      `create table if not exists schema_migrations
         (name text primary key, hash text not null, applied_at timestamptz not null default now())`,
    );
    const known = await queryOne<{ hash: string }>(
      client,
      "select hash from schema_migrations where name = $1",
      [name],
    );
    if (known?.hash === hash) return false;
    if (known) {
      throw new Error(
        `Migration ${name} was changed after it had been applied. Restore its text and put the change into a new migration.`,
      );
    }
    try {
      await client.query(sql);
    } catch (cause) {
      throw Object.assign(new Error(`Migration ${name} failed: ${(cause as Error).message}`, { cause }), {
        code: (cause as { code?: string }).code,
      });
    }
    await query(client, "insert into schema_migrations (name, hash) values ($1, $2)", [name, hash]);
    return true;
  });
}
