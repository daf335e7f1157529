const MAX_SOURCES = 10_000;

export type Verdict = "answer" | "truncate" | "drop";

/**
 * Answers by UDP go where the question says it came from, so that a forged address could have us flood
 * somebody. Each source has so many answers a second; above, every second one becomes a small hint to use
 * TCP, which a forger cannot, and the rest nothing.
 */
export class RateLimit {
  readonly #perSecond: number;
  readonly #used = new Map<string, { second: number; count: number }>();

  constructor(perSecond: number) {
    this.#perSecond = perSecond;
  }

  /** @param now milliseconds */
  take(source: string, now: number): Verdict {
    const second = Math.floor(now / 1_000);
    const known = this.#used.get(source);
    const count = known?.second === second ? known.count + 1 : 1;
    this.#used.delete(source);
    this.#used.set(source, { second, count });
    if (this.#used.size > MAX_SOURCES) this.#used.delete(this.#used.keys().next().value!);
    if (count <= this.#perSecond) return "answer";
    return (count - this.#perSecond) % 2 === 1 ? "truncate" : "drop";
  }
}
