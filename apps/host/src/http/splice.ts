import type { Duplex } from "node:stream";

/** Joins two streams both ways; an end on one side is passed on alone, an error or a close ends both. */
export function splice(a: Duplex, b: Duplex): void {
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    from.on("error", () => from.destroy());
    from.once("close", () => {
      // What was read before the close still reaches the other side; then nothing more can come.
      if (from.readableEnded) to.end();
      else to.destroy();
    });
    from.pipe(to);
  }
}
