import { Transform } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";

const leastBytesPerSecond = 25 * 1000 * 1000;
const bytesPerSecondOfCore = 50 * 1000 * 1000;

/** @returns bytes a second, each way, of all connections of a box together */
export const networkRateOf = (limits: {
  cpuMillis: number;
  networkBytesPerSecond?: number | undefined;
}): number =>
  limits.networkBytesPerSecond ??
  Math.max(leastBytesPerSecond, Math.round((limits.cpuMillis / 1000) * bytesPerSecondOfCore));

/** A bucket that fills at a steady rate up to what one second brings; whoever takes more waits. */
export class Pace {
  readonly #bytesPerSecond: number;
  #tokens: number;
  #filledAt = performance.now();

  constructor(bytesPerSecond: number) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#tokens = bytesPerSecond;
  }

  /** @returns milliseconds until the bytes may pass; they count as passed */
  take(bytes: number, now = performance.now()): number {
    const fresh = ((now - this.#filledAt) / 1000) * this.#bytesPerSecond;
    this.#filledAt = now;
    this.#tokens = Math.min(this.#bytesPerSecond, this.#tokens + fresh) - bytes;
    return this.#tokens >= 0 ? 0 : (-this.#tokens / this.#bytesPerSecond) * 1000;
  }

  /** A stream that lets bytes through at this pace, shared with every other one of it. */
  stream(): Transform {
    return new Transform({
      transform: (chunk: Buffer, _encoding, done) => {
        const waitMs = this.take(chunk.length);
        if (waitMs < 1) done(null, chunk);
        else void delay(waitMs).then(() => done(null, chunk));
      },
    });
  }
}

/** One pace for each direction, so that an upload does not hold up what comes back. */
export interface Paces {
  readonly into: Pace;
  readonly outOf: Pace;
}

export const pacesOf = (bytesPerSecond: number): Paces => ({
  into: new Pace(bytesPerSecond),
  outOf: new Pace(bytesPerSecond),
});
