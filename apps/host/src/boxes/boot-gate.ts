/**
 * Lets a few boxes boot at once and the others wait in line: a hundred boots side by side on two cores
 * would all miss the deadline that each makes alone. The time in line counts for no deadline.
 */
export class BootGate {
  readonly #limit: number;
  #running = 0;
  readonly #line: (() => void)[] = [];

  /** @param limit boots at once */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Nobody boots and nobody waits. */
  get isIdle(): boolean {
    return this.#running === 0 && this.#line.length === 0;
  }

  get waiting(): number {
    return this.#line.length;
  }

  /** @throws the signal's reason if it aborts while in line; `boot` is not called then */
  async pass<T>(signal: AbortSignal, boot: () => Promise<T>): Promise<T> {
    await this.#enter(signal);
    try {
      return await boot();
    } finally {
      const next = this.#line.shift();
      if (next) next();
      else this.#running--;
    }
  }

  async #enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#running < this.#limit) {
      this.#running++;
      return;
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const leave = () => {
      this.#line.splice(this.#line.indexOf(enter), 1);
      reject(signal.reason as Error);
    };
    const enter = () => {
      signal.removeEventListener("abort", leave);
      resolve();
    };
    signal.addEventListener("abort", leave, { once: true });
    this.#line.push(enter);
    await promise;
  }
}
