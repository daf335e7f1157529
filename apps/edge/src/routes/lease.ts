import { edgeLeaseMs } from "@platform/edge-api";
import { sleepUntil, type Log } from "@platform/daemon";
import { HostClient, type Standing } from "@platform/host-api";
import type { RouteTable } from "./table.ts";

/** When nobody confirmed for this long, the hosts are asked. */
const ASK_AFTER_MS = 1_500;
const ASK_EVERY_MS = 1_000;
const ANSWER_MS = 1_000;
const EVERYTHING = "*";

export interface LeaseOptions {
  readonly edgeId: string;
  readonly hostToken: string;
  readonly table: RouteTable;
  /** Resolves once nothing answers for these names past this edge any more; `*`: all of them. */
  readonly withdraw?: (hostnames: readonly string[]) => Promise<void>;
  readonly log: Log;
}

/**
 * Whether this edge may serve what its table says. It may as long as somebody who would know of a newer
 * route says so: the control plane by answering a poll, or, when that is silent, any of the hosts, with
 * whom the control plane leaves a fence before it counts a change as done without this edge.
 *
 * The lease runs from the moment the question left, so that it ends here before it is over anywhere else.
 * Without hosts to ask there is nobody who could fence, and the edge serves on.
 */
export class Lease {
  readonly #options: LeaseOptions;
  readonly #stop = new AbortController();
  readonly #hosts = new Map<string, HostClient>();
  readonly #waiting = new Set<() => void>();
  #untilMs = -Infinity;
  #withdrawn: {
    readonly version: number;
    readonly hostnames: ReadonlySet<string>;
    readonly seenMs: number;
  } | null = null;
  #loop: Promise<void> | null = null;
  #wasValid = true;

  constructor(options: LeaseOptions) {
    this.#options = options;
  }

  /** Monotonic milliseconds until it ends; negative: it is over. */
  get remainingMs(): number {
    return this.#options.table.witnesses.length === 0 ? edgeLeaseMs : this.#untilMs - performance.now();
  }

  /** Names withdrawn until a newer version is applied. */
  get withdrawn(): number {
    return this.#fence()?.hostnames.size ?? 0;
  }

  /** @param names the name asked for and the one that the table keeps its route under */
  covers(...names: string[]): boolean {
    const fence = this.#fence();
    if (fence && (fence.hostnames.has(EVERYTHING) || names.some((name) => fence.hostnames.has(name))))
      return false;
    return this.remainingMs > 0;
  }

  /**
   * The control plane answered, and its answer is carried out. A fence that was there when the question left
   * is over then; one that was seen since may be about what changed after the answer.
   *
   * @param sentMs when the question left, monotonic milliseconds
   */
  renew(sentMs: number): void {
    if (this.#withdrawn && this.#withdrawn.seenMs < sentMs) this.#withdrawn = null;
    this.#confirm(sentMs);
  }

  #confirm(sentMs: number): void {
    this.#untilMs = Math.max(this.#untilMs, sentMs + edgeLeaseMs);
    for (const wake of [...this.#waiting]) wake();
  }

  /** Resolves once the lease covers the names, or time is over. */
  async wait(names: string[], timeoutMs: number, signal: AbortSignal): Promise<boolean> {
    const endsMs = performance.now() + timeoutMs;
    while (!this.covers(...names)) {
      const leftMs = endsMs - performance.now();
      if (leftMs <= 0 || signal.aborted) return false;
      await new Promise<void>((resolve) => {
        const done = () => {
          clearTimeout(timer);
          this.#waiting.delete(done);
          signal.removeEventListener("abort", done);
          resolve();
        };
        const timer = setTimeout(done, leftMs);
        this.#waiting.add(done);
        signal.addEventListener("abort", done, { once: true });
      });
    }
    return true;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#loop;
    await Promise.all([...this.#hosts.values()].map((host) => host.close()));
  }

  /** Asks every host at once; the first answer counts. */
  async askHosts(): Promise<boolean> {
    const { table, edgeId } = this.#options;
    const sentMs = performance.now();
    const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(ANSWER_MS)]);
    const asked = table.witnesses.map((url) => this.#host(url).standing(edgeId, table.version, signal));
    try {
      await this.#take(await Promise.any(asked));
      this.#confirm(sentMs);
      return true;
    } catch (error) {
      if (!(error instanceof AggregateError)) throw error;
      return false;
    }
  }

  async #take({ version, hostnames }: Standing): Promise<void> {
    if (version <= this.#options.table.version) return;
    const known = this.#fence()?.hostnames ?? [];
    this.#withdrawn = { version, hostnames: new Set([...known, ...hostnames]), seenMs: performance.now() };
    this.#options.log.warn(
      { version, names: hostnames.length },
      "routes changed without this edge: withdrawn",
    );
  }

  #fence() {
    if (this.#withdrawn && this.#options.table.version >= this.#withdrawn.version) this.#withdrawn = null;
    return this.#withdrawn;
  }

  #host(url: string): HostClient {
    let host = this.#hosts.get(url);
    if (!host) this.#hosts.set(url, (host = new HostClient({ url, token: this.#options.hostToken })));
    return host;
  }

  async #run(): Promise<void> {
    const { log, table } = this.#options;
    while (!this.#stop.signal.aborted) {
      if (table.witnesses.length > 0 && this.remainingMs < edgeLeaseMs - ASK_AFTER_MS) await this.askHosts();
      const isValid = this.remainingMs > 0;
      if (isValid !== this.#wasValid && !this.#stop.signal.aborted)
        log.warn({ version: table.version, isValid }, isValid ? "the lease goes on" : "the lease is over");
      this.#wasValid = isValid;
      await sleepUntil(Date.now() + ASK_EVERY_MS, this.#stop.signal);
    }
  }
}
