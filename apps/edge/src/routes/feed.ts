import { faultPoint, sleepUntil, type Log } from "@platform/daemon";
import { edgePollMs, RouteUpdate } from "@platform/edge-api";
import { request, type Dispatcher } from "undici";
import type { Lease } from "./lease.ts";
import type { LocalCopy } from "./local-copy.ts";
import type { RouteTable } from "./table.ts";

const WAIT_MS = edgePollMs;
const ANSWER_MARGIN_MS = 3_000;
/** A full table of 100,000 routes takes a while. */
const BODY_MS = 25_000;
const RETRY_MIN_MS = 100;
const RETRY_MAX_MS = 2_000;

export interface FeedOptions {
  readonly controlPlaneUrl: string;
  readonly edgeId: string;
  readonly token: string;
  readonly table: RouteTable;
  readonly copy: LocalCopy;
  readonly lease: Lease;
  /** Resolves once nothing in front answers by itself what the update changed. */
  readonly inFront?: (update: RouteUpdate) => Promise<void>;
  readonly dispatcher: Dispatcher;
  readonly log: Log;
}

/**
 * Keeps the table up to date by a long poll. Asking with `applied=V` acknowledges V, so V is asked
 * with only after the table serves it and the disk holds it.
 */
export class RouteFeed {
  readonly #options: FeedOptions;
  readonly #stop = new AbortController();
  #loop: Promise<void> | null = null;
  #failures = 0;
  /** Applied but not on disk: such a version must not be acknowledged. */
  #unsaved = false;

  constructor(options: FeedOptions) {
    this.#options = options;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#loop;
  }

  async #run(): Promise<void> {
    const { log } = this.#options;
    while (!this.#stop.signal.aborted) {
      try {
        const { table, copy, lease } = this.#options;
        if (this.#unsaved) await this.#rewrite();
        const sentMs = performance.now();
        const update = await this.#poll();
        if (update) await this.#take(update);
        else await copy.confirm(() => table.content());
        // Only now: an answer that could not be carried out leaves this edge with old routes.
        lease.renew(sentMs);
        this.#failures = 0;
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        const delayMs = retryDelayMs(this.#failures++);
        log.warn(
          { reason: (error as Error).message, delayMs, serving: this.#options.table.version },
          "routes could not be refreshed; the last known ones stay in force",
        );
        await sleepUntil(Date.now() + delayMs, this.#stop.signal);
      }
    }
  }

  async #poll(): Promise<RouteUpdate | null> {
    const { controlPlaneUrl, edgeId, token, table, dispatcher } = this.#options;
    const url = new URL("/internal/edge/routes", controlPlaneUrl);
    url.searchParams.set("edge", edgeId);
    url.searchParams.set("applied", String(table.version));
    url.searchParams.set("wait_ms", String(WAIT_MS));
    const response = await request(url, {
      headers: { authorization: `Bearer ${token}`, accept: "application/json" },
      dispatcher,
      headersTimeout: WAIT_MS + ANSWER_MARGIN_MS,
      bodyTimeout: BODY_MS,
      signal: this.#stop.signal,
    });
    if (response.statusCode === 200) {
      return RouteUpdate.parse(await response.body.json());
    }
    await response.body.dump();
    if (response.statusCode === 204) return null;
    throw new Error(`the control plane answered ${response.statusCode} to the route poll`);
  }

  async #take(update: RouteUpdate): Promise<void> {
    const { table, log } = this.#options;
    faultPoint("edge.routes.received");
    if (!update.full && update.version <= table.version) {
      throw new Error(`route update ${update.version} is not newer than ${table.version}`);
    }
    const after = table.version;
    table.apply(update);
    this.#unsaved = true;
    log.debug({ version: update.version, full: update.full, routes: table.size }, "routes applied");
    await this.#options.inFront?.(update);
    faultPoint("edge.routes.before-persist");
    await this.#options.copy.append(after, update, () => table.content());
    this.#saved();
  }

  async #rewrite(): Promise<void> {
    await this.#options.copy.write(this.#options.table.content());
    this.#saved();
  }

  #saved(): void {
    this.#unsaved = false;
    faultPoint("edge.routes.after-persist");
    faultPoint("edge.routes.before-ack");
  }
}

/** Jittered, so that edges which lost the control plane together do not come back together. */
function retryDelayMs(failures: number): number {
  const ceiling = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** Math.min(failures, 10));
  return RETRY_MIN_MS + Math.random() * (ceiling - RETRY_MIN_MS);
}
