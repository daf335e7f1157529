const restMs = 200;
const mostReleases = 1_000;

/**
 * Releases that took no connection just now. Those behind them answer, and one request at a time, five a second, goes to
 * see whether they do again: a release that crashes again and again costs its visitors nothing else.
 */
export class Refusals {
  /** When it was last asked, monotonic milliseconds. The oldest goes first. */
  readonly #askedAt = new Map<string, number>();
  readonly #now: () => number;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Whether to ask this one first; asking it again is then noted. */
  mayAsk(key: string): boolean {
    const askedAt = this.#askedAt.get(key);
    if (askedAt === undefined) return true;
    if (this.#now() - askedAt < restMs) return false;
    this.note(key);
    return true;
  }

  /** It took no connection. */
  note(key: string): void {
    this.#askedAt.delete(key);
    this.#askedAt.set(key, this.#now());
    if (this.#askedAt.size > mostReleases) this.#askedAt.delete(this.#askedAt.keys().next().value!);
  }

  /** It took one. */
  forget(key: string): void {
    this.#askedAt.delete(key);
  }
}
