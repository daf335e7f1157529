import { setTimeout as delay } from "node:timers/promises";

/** A point in time that all steps of one operation share. */
export class Deadline {
  readonly #endsAt: number;
  /** @param durationMs time from now, in milliseconds */
  constructor(durationMs: number) {
    this.#endsAt = performance.now() + durationMs;
  }
  /** @returns milliseconds left, never negative */
  get remainingMs(): number {
    return Math.max(0, this.#endsAt - performance.now());
  }
  get hasPassed(): boolean {
    return this.remainingMs === 0;
  }
}

/** Waits until `when` (milliseconds since the epoch) or until the signal aborts, whichever is first. */
export async function sleepUntil(when: number, signal?: AbortSignal): Promise<void> {
  const ms = when - Date.now();
  if (ms <= 0 || signal?.aborted) return;
  await delay(ms, undefined, { signal, ref: true }).catch((error: unknown) => {
    if (!signal?.aborted) throw error;
  });
}

/**
 * Repeats `check` until it returns a value that is not `undefined` or `false`.
 *
 * @param timeoutMs most time to wait, in milliseconds
 * @param everyMs pause between two checks, in milliseconds
 * @throws Error naming `what` and the last failure, when the time is over
 */
export async function waitFor<T>(
  what: string,
  check: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs: number,
  everyMs = 25,
): Promise<T> {
  const deadline = new Deadline(timeoutMs);
  let lastError: unknown;
  for (;;) {
    try {
      const value = await check();
      if (value !== undefined && value !== false) return value;
    } catch (error) {
      lastError = error;
    }
    if (deadline.hasPassed) {
      throw new Error(`waited ${timeoutMs} ms in vain for: ${what}`, { cause: lastError });
    }
    await delay(Math.min(everyMs, deadline.remainingMs + 1));
  }
}
