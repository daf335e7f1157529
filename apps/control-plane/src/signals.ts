import { EventEmitter, once } from "node:events";
import type { Pool } from "pg";
import { listen } from "@platform/postgres";

/**
 * Hints that something changed, across all control planes on one database. A hint may be lost:
 * whoever waits also looks at the database by a timer.
 */
export class Signals {
  readonly #emitter = new EventEmitter().setMaxListeners(0);
  readonly #pool: Pool;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /** Passes on what other control planes announce, until the signal aborts. */
  async connect(url: string, signal: AbortSignal): Promise<void> {
    await listen(url, "platform", (payload) => this.#emitter.emit(payload || "anything"), { signal });
  }

  /** Announces a topic such as `sandbox:<id>` or `work:builds`, here and elsewhere. */
  announce(...topics: string[]): void {
    for (const topic of topics) {
      this.#emitter.emit(topic);
      void this.#pool.query("select pg_notify('platform', $1)", [topic]).catch(() => undefined); // Only a hint.
    }
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
