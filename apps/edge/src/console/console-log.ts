import { ConsoleBatch, type ConsoleEntry } from "@platform/edge-api";
import { Outbox, type OutboxOptions } from "../access-log/index.ts";

const MAX_ENTRIES = 100;
/** Of all entries of a batch, characters: it becomes one event. */
const MAX_BATCH_CHARACTERS = 200_000;
const MAX_HOSTS = 5_000;

/** What one sandbox may say: so much at once, and so much a second for long. */
const ENTRIES = { most: 200, perSecond: 10 };
const CHARACTERS = { most: 400_000, perSecond: 40_000 };
const NOTICE_EVERY_MS = 10 * 60_000;

interface Budget {
  entries: number;
  characters: number;
  at: number;
}

/**
 * What browsers said, on its way to the control plane: by sandbox, so that none is heard at the cost of
 * another. The sandbox is that of the host name, never of what was sent.
 */
export class ConsoleLog extends Outbox<ConsoleBatch> {
  readonly #open = new Map<string, { batch: ConsoleBatch; characters: number }>();
  readonly #budgets = new Map<string, Budget>();
  readonly #noticed = new Map<string, number>();

  constructor(options: OutboxOptions) {
    super(options, {
      path: "/internal/edge/console",
      what: "what browsers said",
      flushMs: 500,
      maxBatch: 20,
      maxKept: 1_000,
    });
  }

  /** @param dropped entries that the page itself left out */
  take(sandboxId: string, hostname: string, entries: readonly ConsoleEntry[], dropped = 0): void {
    let open = this.#openFor(sandboxId, hostname);
    open.batch.dropped += dropped;
    for (const entry of entries) {
      const characters = JSON.stringify(entry).length;
      if (!this.#spend(sandboxId, characters)) {
        open.batch.dropped++;
        continue;
      }
      const isFull =
        open.batch.entries.length >= MAX_ENTRIES || open.characters + characters > MAX_BATCH_CHARACTERS;
      if (isFull) {
        this.#close(hostname);
        open = this.#openFor(sandboxId, hostname);
      }
      open.batch.entries.push(entry);
      open.characters += characters;
    }
  }

  /** Says once in a while why a page's console is not heard. */
  notice(sandboxId: string, hostname: string, page: string, reason: string): void {
    const key = `${hostname} ${reason}`;
    const now = Date.now();
    if (now - (this.#noticed.get(key) ?? -Infinity) < NOTICE_EVERY_MS) return;
    bound(this.#noticed);
    this.#noticed.set(key, now);
    const text = `The console of this page is not captured: ${reason}.`;
    const empty = { source: null, line: null, column: null, stack: null, method: null, status: null };
    const at = new Date(now).toISOString();
    this.take(sandboxId, hostname, [{ at, level: "info", kind: "notice", text, page, ...empty }]);
  }

  override flush(): Promise<void> {
    for (const hostname of [...this.#open.keys()]) this.#close(hostname);
    return super.flush();
  }

  #openFor(sandboxId: string, hostname: string): { batch: ConsoleBatch; characters: number } {
    const known = this.#open.get(hostname);
    if (known?.batch.sandboxId === sandboxId) return known;
    if (known) this.#close(hostname);
    const fresh = { batch: { sandboxId, hostname, entries: [], dropped: 0 }, characters: 0 };
    this.#open.set(hostname, fresh);
    return fresh;
  }

  #close(hostname: string): void {
    const open = this.#open.get(hostname);
    this.#open.delete(hostname);
    if (open && (open.batch.entries.length > 0 || open.batch.dropped > 0)) this.add(open.batch);
  }

  #spend(sandboxId: string, characters: number): boolean {
    const now = performance.now();
    const budget = this.#budgets.get(sandboxId) ?? {
      entries: ENTRIES.most,
      characters: CHARACTERS.most,
      at: now,
    };
    const seconds = (now - budget.at) / 1000;
    budget.entries = Math.min(ENTRIES.most, budget.entries + seconds * ENTRIES.perSecond);
    budget.characters = Math.min(CHARACTERS.most, budget.characters + seconds * CHARACTERS.perSecond);
    budget.at = now;
    this.#budgets.delete(sandboxId);
    bound(this.#budgets);
    this.#budgets.set(sandboxId, budget);
    if (budget.entries < 1 || budget.characters < characters) return false;
    budget.entries -= 1;
    budget.characters -= characters;
    return true;
  }
}

/** Forgets what was not touched for longest. */
function bound(map: Map<string, unknown>): void {
  if (map.size >= MAX_HOSTS) map.delete(map.keys().next().value!);
}
