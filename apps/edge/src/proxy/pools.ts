import { faultPoint } from "@platform/daemon";
import type { BoxUpstream } from "@platform/edge-api";
import { dialBoxPort, type BoxDoor } from "@platform/host-api";
import { Client, Pool, type buildConnector, type Dispatcher } from "undici";

const MAX_POOLS = 2_000;
const DIAL_TIMEOUT_MS = 10_000;

/**
 * `keepAliveTimeout`: shorter than any common app server keeps an idle connection (Node and uvicorn:
 * 5 s), so that the edge closes first and a POST hardly ever meets a connection that is just going away.
 */
const connectionOptions = {
  pipelining: 1,
  keepAliveTimeout: 3_000,
  keepAliveMaxTimeout: 60_000,
  keepAliveTimeoutThreshold: 2_000,
  headersTimeout: 300_000,
  bodyTimeout: 0,
  maxHeaderSize: 64 * 1024,
} as const;

/** A door of a box behind its host: a port, or the box's agent. */
export interface BoxTarget extends Omit<BoxUpstream, "port"> {
  readonly port: BoxDoor;
}

/** Somewhere to send a request: keep-alive connections, or one made for this request alone. */
export interface Origin {
  readonly name: string;
  /** Whether a kept-alive connection may be going away just now: an app's may, one to our own programs never does. */
  readonly mayHangUp: boolean;
  pooled(): Dispatcher;
  /** Never a connection that was used before. Close it after the request. */
  fresh(): Client;
}

/** The app did not let the edge connect in time. */
export class DialTimeout extends Error {
  constructor() {
    super(`no connection within ${DIAL_TIMEOUT_MS} ms`);
    this.name = "DialTimeout";
  }
}

/**
 * Keep-alive pools, one per port of a box, dialled through its host. At most `MAX_POOLS`: the least
 * recently used one is closed, which lets its requests finish.
 */
export class BoxPools {
  readonly #hostToken: string;
  readonly #pools = new Map<string, Pool>();

  constructor(hostToken: string) {
    this.#hostToken = hostToken;
  }

  get size(): number {
    return this.#pools.size;
  }

  origin(upstream: BoxTarget): Origin {
    return {
      name: `${upstream.boxKey}:${upstream.port}`,
      mayHangUp: true,
      pooled: () => this.#pool(upstream),
      fresh: () =>
        new Client(originUrl(upstream), { ...connectionOptions, connect: this.#connector(upstream) }),
    };
  }

  /**
   * Closes the pools that no route names any more, once their requests have finished.
   *
   * @param whole boxes of which every door may be used
   */
  retain(upstreams: Iterable<BoxUpstream>, whole: Iterable<Omit<BoxUpstream, "port">> = []): void {
    const wanted = new Set<string>();
    for (const upstream of upstreams) wanted.add(keyOf(upstream));
    for (const { hostUrl, boxKey } of whole) wanted.add(`${hostUrl} ${boxKey}`);
    for (const key of [...this.#pools.keys()]) {
      if (!wanted.has(key) && !wanted.has(key.slice(0, key.lastIndexOf(" ")))) this.#close(key);
    }
  }

  async close(): Promise<void> {
    const pools = [...this.#pools.values()];
    this.#pools.clear();
    await Promise.all(pools.map((pool) => pool.destroy()));
  }

  #pool(upstream: BoxTarget): Pool {
    const key = keyOf(upstream);
    let pool = this.#pools.get(key);
    if (pool) this.#pools.delete(key);
    else pool = new Pool(originUrl(upstream), { ...connectionOptions, connect: this.#connector(upstream) });
    this.#pools.set(key, pool);
    if (this.#pools.size > MAX_POOLS) this.#close(this.#pools.keys().next().value!);
    return pool;
  }

  #close(key: string): void {
    const pool = this.#pools.get(key);
    this.#pools.delete(key);
    // Graceful: resolves after the last request; a failure to close has no request left to hurt.
    pool?.close().catch(() => pool.destroy());
  }

  #connector({ hostUrl, boxKey, port }: BoxTarget): buildConnector.connector {
    return (_options, callback) => {
      faultPoint("edge.proxy.before-dial");
      const abort = new AbortController();
      const timer = setTimeout(() => abort.abort(), DIAL_TIMEOUT_MS);
      dialBoxPort({ url: hostUrl, token: this.#hostToken }, boxKey, port, abort.signal)
        .finally(() => clearTimeout(timer))
        .then(
          (socket) => {
            faultPoint("edge.proxy.after-dial");
            // undici takes ECONNRESET for the end of a body that only the connection delimits;
            // under another code it is the failure that it is, and no cut body looks complete.
            socket.on("error", (error: NodeJS.ErrnoException) => {
              if (error.code === "ECONNRESET") error.code = "UPSTREAM_RESET";
            });
            socket.setNoDelay(true);
            callback(null, socket);
          },
          (error: Error) => callback(abort.signal.aborted ? new DialTimeout() : error, null),
        );
    };
  }
}

/** A program of the platform itself, dialled directly. */
export class ServiceOrigin implements Origin {
  readonly name: string;
  readonly mayHangUp = false;
  readonly #url: string;
  readonly #pool: Pool;

  constructor(name: string, url: string) {
    this.name = name;
    this.#url = url;
    this.#pool = new Pool(url, { ...connectionOptions, connect: { timeout: DIAL_TIMEOUT_MS } });
  }

  pooled(): Dispatcher {
    return this.#pool;
  }

  fresh(): Client {
    return new Client(this.#url, { ...connectionOptions, connect: { timeout: DIAL_TIMEOUT_MS } });
  }

  /** Lets requests finish. */
  retire(): void {
    this.#pool.close().catch(() => this.#pool.destroy());
  }

  close(): Promise<void> {
    return this.#pool.destroy();
  }
}

/** One origin for each service that routes name. */
export class ServiceOrigins {
  readonly #origins = new Map<string, ServiceOrigin>();

  origin(url: string): ServiceOrigin {
    let origin = this.#origins.get(url);
    if (!origin) this.#origins.set(url, (origin = new ServiceOrigin(url, url)));
    return origin;
  }

  /** Gives up the services that no route names any more. */
  retain(urls: Iterable<string>): void {
    const wanted = new Set(urls);
    for (const [url, origin] of [...this.#origins]) {
      if (wanted.has(url)) continue;
      this.#origins.delete(url);
      origin.retire();
    }
  }

  async close(): Promise<void> {
    await Promise.all([...this.#origins.values()].map((origin) => origin.close()));
  }
}

const keyOf = ({ hostUrl, boxKey, port }: BoxTarget) => `${hostUrl} ${boxKey} ${port}`;
/** The name is never resolved: the connector dials. */
const originUrl = ({ boxKey, port }: BoxTarget) =>
  typeof port === "number" ? `http://${boxKey}:${port}` : `http://${boxKey}`;
