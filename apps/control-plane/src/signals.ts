import { EventEmitter, once } from "node:events";
import type { Pool } from "pg";
import { listen } from "@platform/postgres";

/** Room for one row among those that this process works on. */
export interface Place {
  /** Seconds for which the row's lease shall be stored. */
  readonly leaseSeconds: number;
  /** Begins work on the row as it was stored. */
  run(row: { readonly id: string; readonly generation: string }): void;
  free(): void;
}

/**
 * Hints that something changed, across all control planes on one database. A hint may be lost:
 * whoever waits also looks at the database by a timer.
 */
export class Signals {
  readonly #emitter = new EventEmitter().setMaxListeners(0);
  readonly #pool: Pool;
  readonly #places = new Map<string, () => Place | null>();

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /** Passes on what other control planes announce, until the signal aborts. */
  async connect(url: string, signal: AbortSignal): Promise<void> {
    await listen(url, "platform", (payload) => this.#emitter.emit(payload || "anything"), { signal });
  }

  /** Announces a topic such as `sandbox:<id>` or `work:builds`, here and elsewhere. */
  announce(...topics: string[]): void {
    for (const topic of topics) this.#emitter.emit(topic);
    const text = "select pg_notify('platform', topic) from unnest($1::text[]) topic";
    void this.#pool.query(text, [topics]).catch(() => undefined); // Only a hint.
  }

  /** Says who works on rows of the table in this process. */
  onReserve(table: string, reserve: () => Place | null): void {
    this.#places.set(table, reserve);
  }

  /**
   * A place for a row that is stored with this process's lease on it, so that nobody has to look for it; `null`
   * when none is free. Whoever gets one runs or frees it.
   */
  reserve(table: string): Place | null {
    return this.#places.get(table)?.() ?? null;
  }

  on(topic: string, listener: () => void): () => void {
    this.#emitter.on(topic, listener);
    return () => this.#emitter.off(topic, listener);
  }

  /** Resolves at the next announcement of the topic or after `timeoutMs` milliseconds. */
  async next(topic: string, timeoutMs: number, signal?: AbortSignal): Promise<void> {
    const timer = AbortSignal.timeout(Math.max(1, Math.ceil(timeoutMs)));
    await once(this.#emitter, topic, { signal: signal ? AbortSignal.any([signal, timer]) : timer }).catch(
      () => undefined,
    ); // Time is over: look again.
  }

  /**
   * Looks until `look` returns something other than undefined, or time is over (then undefined).
   *
   * @param timeoutMs most time to wait, milliseconds
   */
  async until<T>(
    topic: string,
    timeoutMs: number,
    look: () => Promise<T | undefined>,
    signal?: AbortSignal,
  ): Promise<T | undefined> {
    const endsAt = performance.now() + timeoutMs;
    for (;;) {
      const ready = new AbortController();
      // Whole milliseconds: a timer refuses fractions.
      const waitMs = Math.ceil(Math.max(1, Math.min(500, endsAt - performance.now())));
      const heard = this.next(topic, waitMs, ready.signal);
      const value = await look();
      if (value !== undefined || performance.now() >= endsAt || signal?.aborted) {
        ready.abort();
        await heard;
        return value;
      }
      await heard;
    }
  }
}
