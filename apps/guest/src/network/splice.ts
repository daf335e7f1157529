import type { Duplex } from "node:stream";

/**
 * Joins two byte streams until both directions ended. An end in one direction is passed on and
 * leaves the other open; an error, or a close without an end, destroys both. Buffers are those of
 * the streams: `pipe` stops reading while the other side is full.
 */
export function splice(a: Duplex, b: Duplex): void {
  const link = (from: Duplex, to: Duplex) => {
    from.pipe(to);
    from.on("error", () => to.destroy());
    from.on("close", () => {
      if (!from.readableEnded || !from.writableFinished) to.destroy();
    });
  };
  link(a, b);
  link(b, a);
}
