import { Wakeup, type Log } from "@platform/daemon";
import { Demand, type DemandBounds } from "./demand.ts";
import type { Pressure } from "./pressure.ts";
import type { PoolShape } from "./shape.ts";

/** Makes and ends what waits: boxes, or database servers. */
export interface PoolSupply<Waiting, Shape = PoolShape> {
  /** Resolves once it was seen to answer. */
  boot(shape: Shape, signal: AbortSignal): Promise<Waiting>;
  isAlive(waiting: Waiting): Promise<boolean>;
  /** Ends it and removes everything of it. */
  discard(waiting: Waiting): Promise<void>;
}

export interface PoolSettings<Shape = PoolShape> extends DemandBounds {
  /** Kept ready even before anybody asked. */
  readonly lasting: readonly Shape[];
  /** Left free for boxes in use, bytes. */
  readonly reserveBytes: number;
}

export interface PoolParts<Waiting, Shape = PoolShape> {
  readonly settings: PoolSettings<Shape>;
  /** The same for shapes that are interchangeable, and for no others. */
  readonly nameOf: (shape: Shape) => string;
  readonly supply: PoolSupply<Waiting, Shape>;
  readonly pressure: () => Promise<Pressure>;
  /** Callers' boxes boot or wait to: they go first. */
  readonly isBusy: () => boolean;
  readonly log: Log;
}

interface Lane<Waiting, Shape> {
  readonly shape: Shape;
  readonly ready: Waiting[];
  claims: number;
  misses: number;
}

export interface PoolState<Shape> {
  readonly max: number;
  readonly held: string | null;
  readonly lanes: (Shape & Counts)[];
}

interface Counts {
  readonly ready: number;
  readonly target: number;
  readonly claims: number;
  readonly misses: number;
  readonly claimsPerMinute: number;
}

const tickMs = 2_000;
/** After a claim, refilling waits this long: the claimed box's first commands go first. */
const settleMs = 250;
const mostSettleMs = 2_000;
const busyMs = 100;
const maxCpuWait = 0.6;
/** Most time for which a busy machine keeps the pool from growing by one. */
const mostBackoffMs = 30_000;

/**
 * Boxes booted before anybody asks. One at a time is added, and none while callers' boxes boot, memory is
 * short or the cores are contended. A box leaves the pool once, for good.
 */
export class WarmPool<Waiting, Shape extends object = PoolShape> {
  readonly #parts: PoolParts<Waiting, Shape>;
  readonly #demand: Demand;
  readonly #lanes = new Map<string, Lane<Waiting, Shape>>();
  readonly #wakeup = new Wakeup();
  readonly #stop = new AbortController();
  #loop: Promise<void> | null = null;
  #held: string | null = null;
  #backoffMs = 0;
  #settledAt = 0;
  #latestAt = 0;
  #notBefore = 0;

  constructor(parts: PoolParts<Waiting, Shape>) {
    this.#parts = parts;
    this.#demand = new Demand(parts.settings, parts.settings.lasting.map(parts.nameOf));
    for (const shape of parts.settings.lasting) this.#lane(shape);
  }

  start(): void {
    if (this.#parts.settings.max > 0) this.#loop ??= this.#run();
  }

  /** A box of this shape that nobody else gets, or `null`. The demand is noted either way. */
  take(shape: Shape): Waiting | null {
    if (this.#loop === null || this.#stop.signal.aborted) return null;
    const now = performance.now();
    const lane = this.#lane(shape);
    this.#demand.note(this.#parts.nameOf(shape), now);
    const box = lane.ready.shift() ?? null;
    if (box) lane.claims++;
    else lane.misses++;
    if (now > this.#settledAt) this.#latestAt = now + mostSettleMs;
    this.#settledAt = Math.min(now + settleMs, this.#latestAt);
    this.#wakeup.wake();
    return box;
  }

  report(): PoolState<Shape> {
    const now = performance.now();
    const targets = this.#demand.targets(now);
    return {
      max: this.#parts.settings.max,
      held: this.#held,
      lanes: [...this.#lanes.values()].map(({ shape, ready, claims, misses }) => ({
        ...shape,
        ...{ ready: ready.length, target: targets.get(this.#parts.nameOf(shape)) ?? 0, claims, misses },
        claimsPerMinute: this.#demand.perMinute(this.#parts.nameOf(shape), now),
      })),
    };
  }

  /** What a former daemon had made ready. */
  adopt(shape: Shape, waiting: Waiting): void {
    this.#lane(shape).ready.push(waiting);
  }

  /** Ends every box that waits. */
  async close(): Promise<void> {
    this.#stop.abort();
    this.#wakeup.wake();
    await this.#loop;
    for (const { ready } of this.#lanes.values()) {
      await Promise.all(ready.splice(0).map((box) => this.#parts.supply.discard(box)));
    }
  }

  #lane(shape: Shape): Lane<Waiting, Shape> {
    const name = this.#parts.nameOf(shape);
    const known = this.#lanes.get(name);
    if (known) return known;
    const lane: Lane<Waiting, Shape> = { shape, ready: [], claims: 0, misses: 0 };
    this.#lanes.set(name, lane);
    return lane;
  }

  async #run(): Promise<void> {
    let checkedAt = performance.now();
    while (!this.#stop.signal.aborted) {
      let waitMs = tickMs;
      try {
        if (performance.now() - checkedAt > tickMs) {
          await this.#removeUnfit();
          checkedAt = performance.now();
        }
        waitMs = await this.#step();
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        this.#backOff();
        this.#parts.log.warn({ err: error }, "a box for the pool could not be made");
      }
      await this.#wakeup.wait(waitMs, this.#stop.signal);
    }
  }

  /** Adds at most one box. @returns milliseconds until the next look */
  async #step(): Promise<number> {
    const lane = this.#neediest();
    if (!lane) {
      this.#held = null;
      return tickMs;
    }
    const now = performance.now();
    if (now < this.#settledAt) return this.#settledAt - now;
    if (this.#parts.isBusy()) return busyMs;
    const { freeMemoryBytes, cpuWait } = await this.#parts.pressure();
    if (freeMemoryBytes < this.#parts.settings.reserveBytes) {
      this.#held = "memory";
      return tickMs;
    }
    const isContended = cpuWait > maxCpuWait;
    this.#held = isContended ? "cpu" : null;
    if (isContended && this.#backoffMs === 0) this.#backOff();
    const leftMs = this.#notBefore - performance.now();
    if (leftMs > 0) return Math.min(leftMs, tickMs);
    const box = await this.#parts.supply.boot(lane.shape, this.#stop.signal);
    lane.ready.push(box);
    if (isContended) this.#backOff();
    else this.#backoffMs = 0;
    return 0;
  }

  #backOff(): void {
    this.#backoffMs = Math.min(mostBackoffMs, Math.max(1_000, this.#backoffMs * 2));
    this.#notBefore = performance.now() + this.#backoffMs;
  }

  #neediest(): Lane<Waiting, Shape> | null {
    const targets = this.#demand.targets(performance.now());
    const lacking = [...targets].flatMap(([name, target]) => {
      const lane = this.#lanes.get(name);
      const lack = target - (lane?.ready.length ?? 0);
      return lane && lack > 0 ? [{ lane, lack }] : [];
    });
    return lacking.sort((a, b) => b.lack - a.lack)[0]?.lane ?? null;
  }

  /** Ends boxes that died while they waited, and one a round of those that nobody is expected to want. */
  async #removeUnfit(): Promise<void> {
    const targets = this.#demand.targets(performance.now());
    for (const [name, lane] of this.#lanes) {
      for (const box of [...lane.ready]) {
        if (await this.#parts.supply.isAlive(box)) continue;
        await this.#drop(lane, box);
      }
      const target = targets.get(name) ?? 0;
      const surplus = lane.ready[0];
      if (surplus && lane.ready.length > target) await this.#drop(lane, surplus);
      if (target === 0 && lane.ready.length === 0) this.#lanes.delete(name);
    }
  }

  async #drop(lane: Lane<Waiting, Shape>, box: Waiting): Promise<void> {
    const index = lane.ready.indexOf(box);
    if (index < 0) return; // Claimed meanwhile.
    lane.ready.splice(index, 1);
    await this.#parts.supply.discard(box);
  }
}
