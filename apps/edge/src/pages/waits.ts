/** How long a page waits for an app before it says that it did not start, milliseconds. */
export const GIVE_UP_MS = 120_000;
/** A visitor who was away this long waits anew. */
const FORGET_MS = 30_000;
const MAX_HOSTNAMES = 10_000;

/** A wait for an app that starts, as its page shows it. */
export interface Wait {
  readonly waitedSec: number;
  readonly limitSec: number;
  readonly isOver: boolean;
}

/** Since when visitors wait behind a host name. Each look of their pages keeps the wait in memory. */
export class Waits {
  /** Oldest look first. */
  readonly #begun = new Map<string, { sinceMs: number; seenMs: number }>();

  /** @param sinceMs when it began, if that is known; milliseconds since 1970, as `nowMs` */
  look(hostname: string, nowMs: number, sinceMs?: number): Wait {
    const known = this.#begun.get(hostname);
    const begun = sinceMs ?? (known && nowMs - known.seenMs < FORGET_MS ? known.sinceMs : nowMs);
    this.#begun.delete(hostname);
    const waitedMs = Math.max(0, nowMs - begun);
    const isOver = waitedMs >= GIVE_UP_MS;
    // Who loads the page once more after it gave up begins anew.
    if (!isOver) this.#begun.set(hostname, { sinceMs: begun, seenMs: nowMs });
    if (this.#begun.size > MAX_HOSTNAMES) this.#begun.delete(this.#begun.keys().next().value!);
    return { waitedSec: Math.floor(waitedMs / 1000), limitSec: GIVE_UP_MS / 1000, isOver };
  }
}
