export interface DemandBounds {
  /** Boxes that wait per shape that is in use, at least. */
  readonly min: number;
  /** Boxes that wait, all shapes together, at most. */
  readonly max: number;
}

/** How long a claim counts, milliseconds. */
const memoryMs = 10 * 60_000;
/** A burst is what comes within this time, milliseconds: about what making a few boxes takes. */
const burstMs = 10_000;
/** Claims kept per shape; more would not raise the target above any sensible bound. */
const mostClaims = 512;
const mostShapes = 16;

/** How many boxes of which shape to keep ready: as many as the busiest ten seconds of the last ten minutes took. */
export class Demand {
  readonly #bounds: DemandBounds;
  readonly #lasting: ReadonlySet<string>;
  readonly #claims = new Map<string, number[]>();

  /** @param lasting names of shapes that are kept ready also when nobody asks for them */
  constructor(bounds: DemandBounds, lasting: readonly string[]) {
    this.#bounds = bounds;
    this.#lasting = new Set(lasting);
  }

  /** @param now milliseconds of any clock that does not go back */
  note(shape: string, now: number): void {
    const claims = this.#claims.get(shape) ?? [];
    claims.push(now);
    if (claims.length > mostClaims) claims.shift();
    // Put at the end: the shape asked for last comes first when room is short.
    this.#claims.delete(shape);
    this.#claims.set(shape, claims);
    const [oldest] = this.#claims.keys();
    if (this.#claims.size > mostShapes && oldest !== undefined) this.#claims.delete(oldest);
  }

  perMinute(shape: string, now: number): number {
    return (this.#claims.get(shape) ?? []).filter((at) => at > now - 60_000).length;
  }

  /** Boxes to keep ready by shape; their sum is at most `max`. */
  targets(now: number): Map<string, number> {
    for (const [shape, claims] of this.#claims) {
      const fresh = claims.filter((at) => at > now - memoryMs);
      if (fresh.length === 0) this.#claims.delete(shape);
      else this.#claims.set(shape, fresh);
    }
    const recent = [...this.#claims.keys()].reverse();
    const shapes = new Set([...recent, ...this.#lasting]);
    const targets = new Map<string, number>();
    let room = this.#bounds.max;
    for (const shape of shapes) {
      const wanted = Math.max(this.#bounds.min, busiest(this.#claims.get(shape) ?? []));
      const target = Math.min(room, wanted);
      targets.set(shape, target);
      room -= target;
    }
    return targets;
  }
}

/** Most claims within one burst's time; `claims` ascend. */
function busiest(claims: readonly number[]): number {
  let most = 0;
  let first = 0;
  for (const [index, at] of claims.entries()) {
    while ((claims[first] ?? at) <= at - burstMs) first++;
    most = Math.max(most, index - first + 1);
  }
  return most;
}
