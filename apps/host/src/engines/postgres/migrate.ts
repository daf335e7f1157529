import { DatabaseError, type Client } from "pg";
import type { z } from "zod";
import type { MigrationsDone, MigrationsSpec } from "@platform/host-api";
import type { Login } from "../dedicated/login.ts";
import { classify, withLogin } from "./login.ts";

type File = z.output<typeof MigrationsSpec>["files"][number];
type Failed = NonNullable<MigrationsDone["failed"]>;

/** Two promotes at once: one waits for the other. The number is this table's alone. */
const lockNumber = 4_713_004_242;
const marginMs = 30_000;
const table = "recorded_migrations";

/**
 * Files in their order, by the login that the app has, each in one transaction together with the row that says it
 * ran. What ran is not run again; what ran with other content is refused, since nobody knows what it did.
 */
export async function migrate(
  login: Login,
  { files, timeoutMs }: z.output<typeof MigrationsSpec>,
): Promise<MigrationsDone> {
  const applied: string[] = [];
  const work = async (client: Client): Promise<Failed | null> => {
    await client.query(`set lock_timeout = ${timeoutMs}`);
    await client.query("select pg_advisory_lock($1)", [lockNumber]);
    await client.query(
      `create table if not exists public.${table} (name text primary key, sha256 text not null, applied_at timestamptz not null default now())`,
    );
    const { rows } = await client.query<{ name: string; sha256: string }>(
      `select name, sha256 from public.${table}`,
    );
    const known = new Map(rows.map(({ name, sha256 }) => [name, sha256]));
    const changed = files.find(({ name, sha256 }) => (known.get(name) ?? sha256) !== sha256);
    if (changed) return changedFailure(changed);
    await client.query(`set statement_timeout = ${timeoutMs}`);
    for (const file of files) {
      if (known.has(file.name)) continue;
      const failed = await runOne(client, file);
      if (failed) return failed;
      applied.push(file.name);
    }
    return null;
  };
  const failed = await withLogin(login, work, files.length * timeoutMs + marginMs).catch((error: unknown) => {
    const { reason, detail } = classify(error);
    const next = files.find(({ name }) => !applied.includes(name));
    return {
      name: next?.name ?? "",
      reason: "connection",
      code: reason,
      message: detail,
      position: null,
    } as const;
  });
  return { applied, failed };
}

const changedFailure = ({ name }: File): Failed => ({
  ...{ name, reason: "changed", code: null, position: null },
  message: `${name} ran before with other content. Put it back as it was, and write what is new into a new file.`,
});

async function runOne(client: Client, { name, sha256, sql }: File): Promise<Failed | null> {
  await client.query("begin");
  // Gone with the transaction, so that one that the file ended is noticed.
  await client.query("select set_config('recorded.transaction', 'open', true)");
  try {
    await client.query(sql);
    const { rows } = await client.query<{ state: string | null }>(
      "select current_setting('recorded.transaction', true) as state",
    );
    if (rows[0]?.state !== "open") return endedTransaction(name);
    await client.query(`insert into public.${table} (name, sha256) values ($1, $2)`, [name, sha256]);
    await client.query("commit");
    return null;
  } catch (error) {
    if (!(error instanceof DatabaseError)) throw error;
    await client.query("rollback");
    const { code = null, message, position, detail } = error;
    return {
      ...{ name, reason: "statement", code, message: detail ? `${message}: ${detail}` : message },
      position: position === undefined ? null : Number(position),
    };
  }
}

const endedTransaction = (name: string): Failed => ({
  ...{ name, reason: "ended_transaction", code: null, position: null },
  message: `${name} ends its transaction by itself, so it cannot be undone as a whole. Take COMMIT, ROLLBACK and BEGIN out of it. What it did before that stays done.`,
});
