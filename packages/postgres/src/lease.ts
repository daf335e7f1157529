import { setTimeout as delay } from "node:timers/promises";
import type { Pool } from "pg";
import type { Migration } from "./migrate.ts";
import { queryOne, type Queryable } from "./pool.ts";

/** Put it into the list of migrations of a database that uses leases. */
export const leaseMigration: Migration = {
  name: "leases",
  sql: `create table leases (
  name text primary key,
  holder text not null,
  epoch bigint not null,
  expires_at timestamptz not null
)`,
};

export interface Lease {
  readonly name: string;
  /** Grows with every change of holder: pass it on, so that a late write of an old holder is refused. */
  readonly epoch: bigint;
  /** Aborts as soon as the lease is lost or can no longer be proved to be ours. */
  readonly signal: AbortSignal;
}

export type LeaseResult<T> = { held: true; value: T } | { held: false; holder: string | null };

export class LeaseLostError extends Error {
  constructor(name: string, options?: ErrorOptions) {
    super(`The lease ${name} was lost; the work is left to its next holder.`, options);
    this.name = "LeaseLostError";
  }
}

/**
 * Runs `work` while holding the lease, or returns at once who holds it. The lease is not reentrant:
 * a second call with the same holder is refused as any other.
 *
 * @param options.ttlMs after a crash the lease is free again this long, in milliseconds; renewed every third of it
 * @throws LeaseLostError if it was lost before `work` ended, also when `work` itself paid no heed
 */
export async function withLease<T>(
  pool: Pool,
  options: { name: string; holder: string; ttlMs: number; signal?: AbortSignal },
  work: (lease: Lease) => Promise<T>,
): Promise<LeaseResult<T>> {
  const { name, holder, ttlMs } = options;
  // The deadline counts from before the request, so that it never ends after the row's own.
  const askedAt = performance.now();
  const epoch = await acquire(pool, name, holder, ttlMs);
  if (epoch === null) {
    const row = await queryOne<{ holder: string }>(pool, "select holder from leases where name = $1", [name]);
    return { held: false, holder: row?.holder ?? null };
  }
  const lost = new AbortController();
  const done = new AbortController();
  const renewing = renewUntil(done.signal, lost, pool, { name, epoch, ttlMs, heldUntil: askedAt + ttlMs });
  const signal = options.signal ? AbortSignal.any([lost.signal, options.signal]) : lost.signal;
  try {
    const value = await work({ name, epoch, signal });
    if (lost.signal.aborted) throw lost.signal.reason;
    return { held: true, value };
  } finally {
    done.abort();
    await renewing;
    if (!lost.signal.aborted) await release(pool, name, epoch);
  }
}

/**
 * To be called in the transaction that writes: refuses when the epoch is no longer current and
 * holds the row until the commit, so that nobody can take over in between.
 *
 * @throws LeaseLostError
 */
export async function assertLease(
  transaction: Queryable,
  lease: Pick<Lease, "name" | "epoch">,
): Promise<void> {
  const row = await queryOne(
    transaction,
    "select 1 as held from leases where name = $1 and epoch = $2 and expires_at > clock_timestamp() for share",
    [lease.name, lease.epoch],
  );
  if (!row) throw new LeaseLostError(lease.name);
}

async function acquire(pool: Pool, name: string, holder: string, ttlMs: number): Promise<bigint | null> {
  const row = await queryOne<{ epoch: string }>(
    pool,
    `insert into leases as current (name, holder, epoch, expires_at)
     values ($1, $2, 1, now() + $3 * interval '1 millisecond')
     on conflict (name) do update
       set holder = excluded.holder, epoch = current.epoch + 1, expires_at = excluded.expires_at
       where current.expires_at <= now()
     returning epoch::text`,
    [name, holder, ttlMs],
  );
  return row ? BigInt(row.epoch) : null;
}

async function renewUntil(
  done: AbortSignal,
  lost: AbortController,
  pool: Pool,
  lease: { name: string; epoch: bigint; ttlMs: number; heldUntil: number },
): Promise<void> {
  let heldUntil = lease.heldUntil;
  let failure: unknown;
  const expiry = () =>
    setTimeout(
      () => lost.abort(new LeaseLostError(lease.name, { cause: failure })),
      Math.max(0, heldUntil - performance.now()),
    );
  let timer = expiry();
  try {
    while (!done.aborted && !lost.signal.aborted) {
      await delay(lease.ttlMs / 3, undefined, { signal: AbortSignal.any([done, lost.signal]) }).catch(() => {
        // Aborted: the loop's condition ends it.
      });
      if (done.aborted || lost.signal.aborted) return;
      const askedAt = performance.now();
      try {
        const renewed = await renew(pool, lease);
        if (!renewed) return lost.abort(new LeaseLostError(lease.name));
        heldUntil = askedAt + lease.ttlMs;
        clearTimeout(timer);
        timer = expiry();
      } catch (error) {
        // Not renewed yet is not lost yet: the timer decides, unless a later try succeeds.
        failure = error;
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

async function renew(pool: Pool, lease: { name: string; epoch: bigint; ttlMs: number }): Promise<boolean> {
  const row = await queryOne(
    pool,
    `update leases set expires_at = now() + $3 * interval '1 millisecond'
     where name = $1 and epoch = $2 and expires_at > now() returning name`,
    [lease.name, lease.epoch, lease.ttlMs],
  );
  return row !== null;
}

async function release(pool: Pool, name: string, epoch: bigint): Promise<void> {
  await pool
    .query("update leases set expires_at = now() where name = $1 and epoch = $2", [name, epoch])
    .catch(() => {
      // It then ends by itself after its ttl; the result of the work must not be lost over it.
    });
}
