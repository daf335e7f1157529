import type { Log } from "@platform/daemon";
import { request, type Dispatcher } from "undici";

const ANSWER_MS = 10_000;

export interface OutboxOptions {
  readonly controlPlaneUrl: string;
  readonly token: string;
  readonly dispatcher: Dispatcher;
  readonly log: Log;
}

/** What is sent, where to and how much of it. */
interface Shape {
  /** Path below the control plane's address. */
  readonly path: string;
  /** In a sentence: "the request log could not be delivered". */
  readonly what: string;
  readonly flushMs: number;
  /** Most entries of one call. */
  readonly maxBatch: number;
  /** Most entries that wait. */
  readonly maxKept: number;
  /** Most entries that are taken between two flushes; any number when left out. */
  readonly maxTaken?: number;
}

/**
 * Entries on their way to the control plane. Never in the way of traffic: when the control plane does not
 * take them the oldest are dropped, and counted.
 */
export class Outbox<Entry> {
  readonly #options: OutboxOptions;
  readonly #shape: Shape;
  #entries: Entry[] = [];
  #dropped = 0;
  #taken = 0;
  #timer: NodeJS.Timeout | null = null;
  #flushing: Promise<void> | null = null;

  constructor(options: OutboxOptions, shape: Shape) {
    this.#options = options;
    this.#shape = shape;
  }

  /** Entries lost because the control plane took none for too long, or because they were too many. */
  get dropped(): number {
    return this.#dropped;
  }

  start(): void {
    this.#timer ??= setInterval(() => void this.flush(), this.#shape.flushMs).unref();
  }

  /** Sends what is left, once. */
  async stop(): Promise<void> {
    if (this.#timer) clearInterval(this.#timer);
    await this.flush();
  }

  /** Whether `add` would take an entry now; one that is not made at all is counted by `leaveOut`. */
  get hasRoom(): boolean {
    return this.#taken < (this.#shape.maxTaken ?? Infinity);
  }

  leaveOut(): void {
    this.#dropped++;
  }

  add(entry: Entry): void {
    const { maxBatch, maxKept } = this.#shape;
    if (!this.hasRoom) return this.leaveOut();
    this.#taken++;
    this.#entries.push(entry);
    // In steps: removing the first of 20,000 elements each time would cost more than the request.
    if (this.#entries.length > maxKept) {
      const excess = Math.min(this.#entries.length, maxBatch);
      this.#entries.splice(0, excess);
      this.#dropped += excess;
    }
  }

  /** Sends all entries in batches; stops at the first failure and keeps the rest for the next time. */
  flush(): Promise<void> {
    this.#taken = 0;
    this.#flushing ??= this.#flushAll().finally(() => (this.#flushing = null));
    return this.#flushing;
  }

  async #flushAll(): Promise<void> {
    while (this.#entries.length > 0) {
      const batch = this.#entries.splice(0, this.#shape.maxBatch);
      try {
        await this.#post(batch);
      } catch (error) {
        const room = Math.max(0, this.#shape.maxKept - this.#entries.length);
        const kept = batch.slice(Math.max(0, batch.length - room));
        this.#dropped += batch.length - kept.length;
        this.#entries = [...kept, ...this.#entries];
        this.#options.log.warn(
          { reason: (error as Error).message, waiting: this.#entries.length, dropped: this.#dropped },
          `${this.#shape.what} could not be delivered; it is tried again`,
        );
        return;
      }
    }
  }

  async #post(batch: readonly Entry[]): Promise<void> {
    const { controlPlaneUrl, token, dispatcher } = this.#options;
    const response = await request(new URL(this.#shape.path, controlPlaneUrl), {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify(batch),
      dispatcher,
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    await response.body.dump();
    if (response.statusCode >= 300) throw new Error(`the control plane answered ${response.statusCode}`);
  }
}
