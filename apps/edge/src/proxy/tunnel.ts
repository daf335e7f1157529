import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { FrameBorders, goingAway } from "./web-socket-frames.ts";

const KEEP_ALIVE_PROBE_MS = 60_000;
/** A client that was told to go has this long to say goodbye. */
const GOODBYE_MS = 2_000;

/** Part of all connections that tunnels of one app may take: the others have room whatever it does. */
const SHARE = 0.5;

export interface TunnelRules {
  /** Whose tunnel it is, by the name of its route. */
  readonly app: string;
  /** Name of the origin behind it; null: it never counts as given up. */
  readonly origin: string | null;
  /** Of a WebSocket: how long it may go on once no route leads to its origin; null: until an end closes it. */
  readonly closeMs: number | null;
}

interface Tunnel extends TunnelRules {
  readonly client: Socket;
  readonly sayGoodbye: () => void;
  timer: NodeJS.Timeout | null;
}

/**
 * Upgraded connections. Each lives until one of its ends closes it: a route that moves or goes away
 * leaves it alone, but for a WebSocket whose deployment says how long it may stay behind.
 */
export class Tunnels {
  readonly #open = new Set<Tunnel>();
  /** Open ones by app. */
  readonly #counts = new Map<string, number>();
  readonly #mostOfOne: number;

  /** @param maxConnections that the edge takes at all */
  constructor(maxConnections = Infinity) {
    this.#mostOfOne = Math.max(1, Math.floor(maxConnections * SHARE));
  }

  /** Whether the app may have one more. */
  hasRoom(app: string): boolean {
    return (this.#counts.get(app) ?? 0) < this.#mostOfOne;
  }

  get size(): number {
    return this.#open.size;
  }

  /** Copies bytes both ways. The end of one direction is passed on and leaves the other open. */
  join(client: Socket, upstream: Duplex, rules: TunnelRules): void {
    // Without it Node would answer the app's half-close by closing the direction to the app too.
    upstream.allowHalfOpen = true;
    client.setTimeout(0);
    client.setNoDelay(true);
    client.setKeepAlive(true, KEEP_ALIVE_PROBE_MS);
    const breakBoth = () => {
      client.destroy();
      upstream.destroy();
    };
    if (rules.closeMs === null) upstream.pipe(client);
    const sayGoodbye = rules.closeMs === null ? breakBoth : copyFrames(upstream, client, breakBoth);
    const tunnel: Tunnel = { ...rules, client, sayGoodbye, timer: null };
    this.#open.add(tunnel);
    this.#counts.set(rules.app, (this.#counts.get(rules.app) ?? 0) + 1);
    for (const end of [client, upstream]) {
      end.on("error", breakBoth);
      end.on("close", () => {
        this.#leave(tunnel);
        if (tunnel.timer) clearTimeout(tunnel.timer);
        const other = end === client ? upstream : client;
        if (!end.readableEnded || other.destroyed) breakBoth();
        else other.end();
      });
    }
    client.pipe(upstream);
    if (client.destroyed || upstream.destroyed) breakBoth();
  }

  /** Begins the time of those that were left behind, and forgives those that are led to again. */
  retain(origins: ReadonlySet<string>): void {
    for (const tunnel of this.#open) {
      if (tunnel.origin === null || tunnel.closeMs === null) continue;
      if (origins.has(tunnel.origin)) {
        if (tunnel.timer) clearTimeout(tunnel.timer);
        tunnel.timer = null;
      } else {
        tunnel.timer ??= setTimeout(tunnel.sayGoodbye, tunnel.closeMs);
      }
    }
  }

  #leave(tunnel: Tunnel): void {
    if (!this.#open.delete(tunnel)) return;
    const left = this.#counts.get(tunnel.app)! - 1;
    if (left > 0) this.#counts.set(tunnel.app, left);
    else this.#counts.delete(tunnel.app);
  }

  breakAll(): void {
    for (const { client } of this.#open) client.destroy();
  }
}

/**
 * Copies from the app to the client and watches the frames, so that a frame of our own never falls into
 * another one.
 *
 * @returns closes the WebSocket with 1001 as soon as no frame is half sent
 */
function copyFrames(upstream: Duplex, client: Socket, breakBoth: () => void): () => void {
  const borders = new FrameBorders();
  let state: "open" | "leaving" | "left" = "open";
  const leave = () => {
    state = "left";
    client.write(goingAway);
    // Whatever the app still says has nobody to hear it; what the client says still reaches the app.
    upstream.resume();
    setTimeout(breakBoth, GOODBYE_MS).unref();
  };
  upstream.on("data", (chunk: Buffer) => {
    if (state === "left") return;
    const end = borders.pass(chunk);
    const isLast = state === "leaving" && end !== null;
    if (!client.write(isLast ? chunk.subarray(0, end) : chunk) && !isLast) upstream.pause();
    if (isLast) leave();
  });
  client.on("drain", () => upstream.resume());
  upstream.on("end", () => client.end());
  return () => {
    if (state !== "open") return;
    if (borders.isAtBorder) leave();
    else state = "leaving";
  };
}
