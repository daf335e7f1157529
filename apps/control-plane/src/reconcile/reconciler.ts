import { Wakeup } from "@platform/daemon";
import type { Platform } from "../platform.ts";
import { isPresent } from "../presence.ts";
import type { Place } from "../signals.ts";

export interface ReconcilerOptions {
  readonly table:
    | "sandboxes"
    | "databases"
    | "database_backups"
    | "database_archives"
    | "deployments"
    | "builds"
    | "template_builds"
    | "certificates";
  /** Rows that may have work, as SQL without parameters. */
  readonly due: string;
  /** Rows worked on at once by this process. */
  readonly concurrency: number;
  /**
   * Brings one row one or more steps closer to its desired state. May run twice; may be cut at any
   * point. Returns milliseconds until the next look. Throwing means: look again, with backoff.
   * `stored`: the row, when it was stored a moment ago and nobody looked at it before.
   */
  readonly step: (id: string, signal: AbortSignal, stored?: unknown) => Promise<number>;
}

const leaseSeconds = 8;
const renewMs = 2_500;
const idleMs = 1_000;
const most = 30_000;

/**
 * One loop for all rows of a table: claim a due row by lease, let `step` look and act, note when to look
 * again. A signal wakes it for speed, a timer for certainty; both take the same path. When a control
 * plane dies, another one (or its successor) goes on at once; one that hangs loses its leases by time.
 */
export class Reconciler {
  readonly #platform: Platform;
  readonly #options: ReconcilerOptions;
  readonly #holder: string;
  readonly #wakeup = new Wakeup();
  readonly #stop = new AbortController();
  readonly #running = new Set<Promise<void>>();
  #loop: Promise<void> | null = null;
  #reserved = 0;

  constructor(platform: Platform, options: ReconcilerOptions) {
    this.#platform = platform;
    this.#holder = platform.holder;
    this.#options = options;
    platform.signals.on(`work:${options.table}`, () => this.#wakeup.wake());
    platform.signals.onReserve(options.table, () => this.#reserve());
  }

  start(): void {
    this.#loop = this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    this.#wakeup.wake();
    await this.#loop;
    await Promise.allSettled(this.#running);
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        while (this.#hasRoom) {
          const claimed = await this.#claim();
          if (claimed === null) break;
          this.#begin(claimed);
        }
      } catch (error) {
        this.#platform.log.warn({ err: error, table: this.#options.table }, "cannot claim work");
      }
      await this.#wakeup.wait(idleMs, this.#stop.signal);
    }
  }

  get #hasRoom(): boolean {
    return this.#running.size + this.#reserved < this.#options.concurrency;
  }

  #begin(row: { id: string; generation: string }, stored?: unknown): void {
    const work = this.#work(row.id, row.generation, stored).finally(() => {
      this.#running.delete(work);
      this.#wakeup.wake();
    });
    this.#running.add(work);
  }

  #reserve(): Place | null {
    if (this.#loop === null || this.#stop.signal.aborted || !this.#hasRoom) return null;
    this.#reserved += 1;
    return {
      leaseSeconds,
      run: (row) => {
        this.#reserved -= 1;
        // One that stops leaves the row to whoever finds its lease given up.
        if (!this.#stop.signal.aborted) this.#begin(row, row);
      },
      free: () => {
        this.#reserved -= 1;
        this.#wakeup.wake();
      },
    };
  }

  async #claim(): Promise<{ id: string; generation: string } | null> {
    const { table, due } = this.#options;
    const { rows } = await this.#platform.pool.query<{ id: string; generation: string }>(
      `update ${table} set lease_holder = $1, lease_until = now() + interval '${leaseSeconds} seconds'
       where id = (select id from ${table} where (${due}) and next_look_at <= now() and (lease_until is null or lease_until < now() or (lease_holder <> $1 and not ${isPresent("lease_holder")}))
                   order by next_look_at limit 1 for update skip locked)
       returning id, generation`,
      [this.#holder],
    );
    return rows[0] ?? null;
  }

  /** @param generation of the row when it was claimed */
  async #work(id: string, generation: string, stored: unknown): Promise<void> {
    const { table, step } = this.#options;
    const { pool, log } = this.#platform;
    const lost = new AbortController();
    const signal = AbortSignal.any([lost.signal, this.#stop.signal]);
    const renewal = setInterval(() => {
      void pool
        .query(
          `update ${table} set lease_until = now() + interval '${leaseSeconds} seconds' where id = $1 and lease_holder = $2`,
          [id, this.#holder],
        )
        .then((result) => {
          if (result.rowCount === 0) lost.abort();
        })
        .catch((error: unknown) => log.warn({ err: error, table, id }, "cannot renew a lease"));
    }, renewMs);
    let delayMs: number | null = null;
    try {
      delayMs = await step(id, signal, stored);
    } catch (error) {
      if (!signal.aborted) log.warn({ err: error, table, id }, "a step failed and will be tried again");
    } finally {
      clearInterval(renewal);
    }
    // A row that was changed by somebody while we worked is looked at again at once.
    await pool
      .query(
        delayMs === null
          ? `update ${table} set lease_holder = null, lease_until = null, attempts = attempts + 1,
             next_look_at = now() + least(interval '1 ms' * ${most}, interval '250 ms' * power(2, least(attempts, 10))) where id = $1 and lease_holder = $2`
          : `update ${table} set lease_holder = null, lease_until = null, attempts = 0,
             next_look_at = case when generation = $4 then now() + interval '1 ms' * $3::double precision else now() end where id = $1 and lease_holder = $2`,
        delayMs === null ? [id, this.#holder] : [id, this.#holder, Math.max(0, delayMs), generation],
      )
      .catch((error: unknown) => log.warn({ err: error, table, id }, "cannot release a lease"));
  }
}
