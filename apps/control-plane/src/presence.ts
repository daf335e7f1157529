import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { Pool, PoolClient } from "pg";

/** Any fixed number; the second half of each lock is the holder's name, hashed. */
const lockClass = 724_003;
const reconnectMs = 100;

/**
 * SQL that holds for a lease whose holder is alive. Postgres ends a session with its process, so that a
 * killed control plane's work is free at once instead of when its lease ends.
 */
export const isPresent = (holderColumn: string): string =>
  `exists (select 1 from pg_locks where locktype = 'advisory' and classid = ${lockClass}
     and objid = hashtext(${holderColumn})::oid and granted
     and database = (select oid from pg_database where datname = current_database()))`;

/**
 * Shows the other control planes that this one lives, until the signal aborts: a session of its own
 * holds an advisory lock. While that session is being made again, others may take over its work, which
 * is safe, as each step may run twice.
 *
 * @throws Error if the first session cannot be had
 */
export async function appear(
  pool: Pool,
  signal: AbortSignal,
): Promise<{ readonly holder: string; readonly ended: Promise<void> }> {
  const holder = randomUUID();
  const first = await hold(pool, holder);
  return { holder, ended: stay(pool, holder, first, signal) };
}

async function hold(pool: Pool, holder: string): Promise<PoolClient> {
  const client = await pool.connect();
  try {
    await client.query("select pg_advisory_lock($1, hashtext($2))", [lockClass, holder]);
    return client;
  } catch (error) {
    client.release(true);
    throw error;
  }
}

async function stay(pool: Pool, holder: string, first: PoolClient, signal: AbortSignal): Promise<void> {
  let client: PoolClient | null = first;
  while (!signal.aborted) {
    if (client) {
      await lost(client, signal);
      client.release(true);
      client = null;
    }
    if (signal.aborted) return;
    // Without a store there is no work to hold either: try until it is back.
    client = await hold(pool, holder).catch(() => null);
    if (!client) await delay(reconnectMs, undefined, { signal }).catch(() => undefined); // Aborted: the loop ends.
  }
  client?.release(true);
}

const lost = (client: PoolClient, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      client.off("end", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    client.on("end", done);
    signal.addEventListener("abort", done, { once: true });
  });
