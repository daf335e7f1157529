import { randomUUID } from "node:crypto";
import { faultPoint, Wakeup } from "@platform/daemon";
import { query } from "@platform/postgres";
import { Agent } from "undici";
import type { Platform } from "../platform.ts";
import { fanOut } from "./fan-out.ts";
import { send, type Outcome } from "./send.ts";
import type { DeliveryRow } from "./store.ts";
import { checkedLookup } from "./target.ts";

export interface WebhookWorkerOptions {
  /** As WebhookSettings.allowPrivate. */
  readonly allowPrivate: boolean;
  /** Delay before the first retry, milliseconds; doubles with each, up to an hour. */
  readonly retryBaseMs?: number;
  /** After a crash an attempt is made again this long after it began, milliseconds. More than one attempt takes. */
  readonly leaseMs?: number;
}

interface Claimed extends DeliveryRow {
  readonly url: string;
  readonly secret_sealed: Buffer;
  readonly headers_sealed: Buffer | null;
  readonly retry_count: number;
}

const concurrency = 16;
const idleMs = 1_000;
const mostRetryMs = 3_600_000;
const trimEveryMs = 3_600_000;

/**
 * Makes deliveries out of events and sends them. A row is leased for each attempt: when a control plane
 * dies, its leases end and another one sends again. Receivers drop repeats by the delivery id.
 */
export class WebhookWorker {
  readonly #platform: Platform;
  readonly #options: Required<WebhookWorkerOptions>;
  readonly #agent: Agent;
  readonly #holder = randomUUID();
  readonly #wakeup = new Wakeup();
  readonly #stop = new AbortController();
  readonly #running = new Set<Promise<void>>();
  readonly #unsubscribe: (() => void)[];
  #trimmedAt = 0;
  #loop: Promise<void> | null = null;

  constructor(platform: Platform, options: WebhookWorkerOptions) {
    this.#platform = platform;
    this.#options = { retryBaseMs: 5_000, leaseMs: 30_000, ...options };
    this.#agent = new Agent({
      connections: 4,
      keepAliveTimeout: 1_000,
      connect: { timeout: 10_000, ...(options.allowPrivate ? {} : { lookup: checkedLookup }) },
    });
    const wake = () => this.#wakeup.wake();
    this.#unsubscribe = [platform.signals.on("events", wake), platform.signals.on("work:webhooks", wake)];
  }

  start(): void {
    this.#loop = this.#run();
  }

  /** Cuts running attempts; they are made again after the next start. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#wakeup.wake();
    for (const off of this.#unsubscribe) off();
    await this.#loop;
    await Promise.allSettled(this.#running);
    await this.#agent.destroy();
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        while (await fanOut(this.#platform.pool)) continue;
        for (const row of await this.#claim()) this.#begin(row);
        await this.#trim();
      } catch (error) {
        this.#platform.log.warn({ err: error }, "webhooks cannot be delivered now");
      }
      await this.#wakeup.wait(idleMs, this.#stop.signal);
    }
  }

  #begin(row: Claimed): void {
    const work = this.#attempt(row)
      .catch((error: unknown) =>
        this.#platform.log.warn({ err: error, id: row.id }, "a delivery's outcome is not stored"),
      )
      .finally(() => {
        this.#running.delete(work);
        this.#wakeup.wake();
      });
    this.#running.add(work);
  }

  async #claim(): Promise<Claimed[]> {
    const free = concurrency - this.#running.size;
    if (free <= 0) return [];
    return query<Claimed>(
      this.#platform.pool,
      `update webhook_deliveries d set lease_holder = $1, lease_until = now() + interval '1 ms' * $2::int
       from webhooks w where w.id = d.webhook_id and d.id in (
         select p.id from webhook_deliveries p join webhooks a on a.id = p.webhook_id and a.active
         where p.state in ('pending', 'retrying') and p.next_attempt_at <= now() and (p.lease_until is null or p.lease_until < now())
         order by p.next_attempt_at limit ${free} for update of p skip locked)
       returning d.*, w.url, w.secret_sealed, w.headers_sealed, w.retry_count`,
      [this.#holder, this.#options.leaseMs],
    );
  }

  async #attempt(row: Claimed): Promise<void> {
    const { seal } = this.#platform;
    faultPoint("control-plane.webhook.before-send");
    const outcome = await send(
      {
        id: row.id,
        url: row.url,
        secret: seal.open(row.secret_sealed),
        headers: row.headers_sealed
          ? (JSON.parse(seal.open(row.headers_sealed)) as Record<string, string>)
          : {},
        eventType: row.event_type,
        tenantId: row.tenant_id,
        occurredAt: row.occurred_at,
        data: row.data,
      },
      this.#agent,
      { allowPrivate: this.#options.allowPrivate, signal: this.#stop.signal },
    );
    if (!outcome.ok && this.#stop.signal.aborted) return this.#release(row);
    faultPoint("control-plane.webhook.before-store");
    await this.#store(row, outcome);
  }

  #nextState(row: Claimed, { ok, mayRetry }: Outcome): DeliveryRow["state"] {
    if (ok) return "delivered";
    if (!mayRetry || row.retry_count === 0) return "failed";
    return row.attempts + 1 > row.retry_count ? "dead_letter" : "retrying";
  }

  /** Half of the delay is random, so that what failed together does not come back together. */
  #retryDelayMs(attempts: number): number {
    const full = Math.min(mostRetryMs, this.#options.retryBaseMs * 2 ** attempts);
    return full / 2 + Math.random() * (full / 2);
  }

  async #store(row: Claimed, outcome: Outcome): Promise<void> {
    await this.#platform.pool.query(
      `update webhook_deliveries set state = $3, attempts = attempts + 1, response_status = $4, response_body = $5, error = $6,
         next_attempt_at = now() + interval '1 ms' * $7::double precision, delivered_at = case when $3 = 'delivered' then now() end,
         lease_holder = null, lease_until = null, updated_at = now()
       where id = $1 and lease_holder = $2 and state in ('pending', 'retrying')`,
      [
        row.id,
        this.#holder,
        this.#nextState(row, outcome),
        outcome.status,
        outcome.body,
        outcome.error,
        this.#retryDelayMs(row.attempts),
      ],
    );
    this.#platform.signals.announce(`webhook-delivery:${row.id}`);
  }

  async #release(row: Claimed): Promise<void> {
    await this.#platform.pool.query(
      "update webhook_deliveries set lease_holder = null, lease_until = null where id = $1 and lease_holder = $2",
      [row.id, this.#holder],
    );
  }

  /** Keeps a month of settled deliveries. */
  async #trim(): Promise<void> {
    if (Date.now() - this.#trimmedAt < trimEveryMs) return;
    this.#trimmedAt = Date.now();
    await this.#platform.pool.query(
      "delete from webhook_deliveries where created_at < now() - interval '30 days' and state not in ('pending', 'retrying')",
    );
  }
}
