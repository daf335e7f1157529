import { setTimeout as delay } from "node:timers/promises";

/**
 * Repeats `check` until it returns a value that is not `undefined` or `false`.
 *
 * @param timeoutMs most time to wait, milliseconds
 * @param everyMs pause between two checks, milliseconds
 * @throws Error naming `what`, with the last failure as its cause
 */
export async function waitFor<T>(
  what: string,
  check: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs: number,
  everyMs = 25,
): Promise<T> {
  const endsAt = performance.now() + timeoutMs;
  for (;;) {
    let cause: unknown;
    try {
      const value = await check();
      if (value !== undefined && value !== false) return value;
    } catch (error) {
      cause = error;
    }
    if (performance.now() > endsAt) throw new Error(`waited ${timeoutMs} ms in vain for: ${what}`, { cause });
    await delay(everyMs);
  }
}
