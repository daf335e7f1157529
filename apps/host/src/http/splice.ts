import type { Duplex } from "node:stream";
import type { Paces } from "./pace.ts";

/**
 * Joins two streams both ways; an end on one side is passed on alone, an error or a close ends both.
 *
 * @param paces of the box on the side of `b`
 */
export function splice(a: Duplex, b: Duplex, paces: Paces): void {
  for (const [from, to, pace] of [
    [a, b, paces.into],
    [b, a, paces.outOf],
  ] as const) {
    const paced = pace.stream();
    from.on("error", () => from.destroy());
    from.once("close", () => {
      // What was read before the close still reaches the other side; then nothing more can come.
      if (from.readableEnded) paced.end();
      else to.destroy();
    });
    to.once("close", () => paced.destroy());
    from.pipe(paced).pipe(to);
  }
}
