import type { Socket } from "node:net";
import type { Duplex } from "node:stream";

const KEEP_ALIVE_PROBE_MS = 60_000;

/**
 * Upgraded connections. Each lives until one of its ends closes it: a route that moves or goes away
 * leaves it alone.
 */
export class Tunnels {
  readonly #open = new Set<Duplex>();

  get size(): number {
    return this.#open.size;
  }

  /** Copies bytes both ways. The end of one direction is passed on and leaves the other open. */
  join(client: Socket, upstream: Duplex): void {
    this.#open.add(client);
    // Without it Node would answer the app's half-close by closing the direction to the app too.
    upstream.allowHalfOpen = true;
    client.setTimeout(0);
    client.setNoDelay(true);
    client.setKeepAlive(true, KEEP_ALIVE_PROBE_MS);
    const breakBoth = () => {
      client.destroy();
      upstream.destroy();
    };
    for (const end of [client, upstream]) {
      end.on("error", breakBoth);
      end.on("close", () => {
        this.#open.delete(client);
        const other = end === client ? upstream : client;
        if (!end.readableEnded || other.destroyed) breakBoth();
        else other.end();
      });
    }
    client.pipe(upstream);
    upstream.pipe(client);
    if (client.destroyed || upstream.destroyed) breakBoth();
  }

  breakAll(): void {
    for (const socket of this.#open) socket.destroy();
  }
}
