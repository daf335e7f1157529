const minuteMs = 60_000;
const hourMs = 60 * minuteMs;

export interface Checked {
  readonly isProved: boolean;
  /** Proved before, and now DNS leads elsewhere. */
  readonly isAway: boolean;
  /** Since the claim, milliseconds. */
  readonly ageMs: number;
}

/** @returns milliseconds until DNS is looked at again by itself */
export function checkAgainMs({ isProved, isAway, ageMs }: Checked): number {
  if (isProved) return 6 * hourMs;
  if (isAway) return hourMs;
  if (ageMs < hourMs) return 2 * minuteMs;
  return ageMs < 24 * hourMs ? 15 * minuteMs : 3 * hourMs;
}

/** A claim that was never proved is looked at by itself for this long, days; after that only when asked. */
export const watchDays = 7;
