export interface Summary {
  readonly count: number;
  /** Milliseconds. */
  readonly p50: number;
  readonly p95: number;
}

export interface Row {
  readonly name: string;
  readonly ours: Summary;
  readonly peerName: string;
  readonly peer: Summary;
}

/** @throws RangeError without samples */
export function summarise(samples: readonly number[]): Summary {
  if (samples.length === 0) throw new RangeError("nothing was measured");
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (part: number) => sorted[Math.min(sorted.length - 1, Math.ceil(part * sorted.length) - 1)]!;
  return { count: samples.length, p50: at(0.5), p95: at(0.95) };
}

/** @returns milliseconds that `work` took */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}
