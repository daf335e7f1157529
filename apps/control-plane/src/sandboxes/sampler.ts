import { Wakeup } from "@platform/daemon";
import { query } from "@platform/postgres";
import { record } from "../events/index.ts";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";

const sampleEveryMs = 30_000;
const portsEveryMs = 2_000;
const tickMs = 1_000;
/** A sandbox that nobody used for this long opens no ports worth telling, milliseconds. */
const watchedMs = 120_000;
const atOnce = 8;
const mib = 1024 * 1024;

interface Due {
  readonly sandbox_id: string;
  readonly tenant_id: string;
  readonly workspace_id: string | null;
  readonly name: string | null;
  readonly memory_mb: number;
  /** Box of the counters below, and the box there is now. */
  readonly box_key: string;
  readonly box_now: string;
  readonly at: Date;
  readonly cpu_micros: string | null;
  readonly oom_kills: string | null;
  readonly sent_bytes: string | null;
  readonly received_bytes: string | null;
  readonly ports: number[] | null;
}

const number = (text: string | null): number | null => (text === null ? null : Number(text));
const inMib = (bytes: number | null) => (bytes === null ? null : Math.round((bytes / mib) * 10) / 10);

/**
 * Percent of one core between two looks at the kernel's counter; null when there is nothing to compare,
 * as of another box or a counter that began anew.
 */
export function cpuPercent(
  before: { micros: number | null; at: number },
  now: { micros: number | null; at: number },
): number | null {
  if (before.micros === null || now.micros === null || now.micros < before.micros) return null;
  const elapsedMs = now.at - before.at;
  if (elapsedMs <= 0 || elapsedMs > 10 * sampleEveryMs) return null;
  return Math.round((now.micros - before.micros) / elapsedMs) / 10;
}

/** Adds to the sum of former lives what a counter had when it began anew. */
export const carried = (last: number | null, now: number | null, isSameBox: boolean): number =>
  last !== null && (!isSameBox || (now !== null && now < last)) ? last : 0;

/**
 * Looks at running sandboxes: a point of the kernel's figures each half minute, and, while somebody works
 * in one, which ports listen. Control planes share the work row by row.
 */
export class SandboxSampler {
  readonly #platform: Platform;
  readonly #stop = new AbortController();
  readonly #wakeup = new Wakeup();
  #loop: Promise<void> | null = null;

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  start(): void {
    this.#loop = this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    this.#wakeup.wake();
    await this.#loop;
  }

  async #run(): Promise<void> {
    const { log } = this.#platform;
    while (!this.#stop.signal.aborted) {
      await this.#tick().catch((error: unknown) => log.warn({ err: error }, "cannot look at sandboxes"));
      await this.#wakeup.wait(tickMs, this.#stop.signal);
    }
  }

  async #tick(): Promise<void> {
    const { pool, log, settings } = this.#platform;
    await pool.query(
      `insert into sandbox_counters (sandbox_id, box_key, at, ports_at)
       select id, box_key, now() - interval '1 hour', now() - interval '1 hour' from sandboxes where state = 'running' on conflict do nothing`,
    );
    const every = settings.sampleEveryMs ?? sampleEveryMs;
    for (const [due, work] of [
      [await this.#claim("at", every, "true"), this.#sample],
      [
        await this.#claim("ports_at", portsEveryMs, `s.last_used_at > now() - interval '${watchedMs} ms'`),
        this.#lookAtPorts,
      ],
    ] as const) {
      const rest = [...due];
      const worker = async () => {
        for (let one = rest.pop(); one && !this.#stop.signal.aborted; one = rest.pop())
          await work(one).catch((error: unknown) =>
            // It may have ended a moment ago; the next look tells.
            log.debug({ err: error, sandboxId: one?.sandbox_id }, "a sandbox could not be looked at"),
          );
      };
      await Promise.all(Array.from({ length: atOnce }, worker));
    }
  }

  /** Takes rows whose last look is old enough; the answer holds what was known before. */
  #claim(column: "at" | "ports_at", everyMs: number, where: string): Promise<Due[]> {
    return query<Due>(
      this.#platform.pool,
      `with due as (
         select c.*, s.tenant_id, s.workspace_id, s.name, s.memory_mb, s.box_key as box_now from sandbox_counters c join sandboxes s on s.id = c.sandbox_id
         where s.state = 'running' and ${where} and c.${column} < now() - $1 * interval '1 ms' limit 200 for update of c skip locked)
       update sandbox_counters c set ${column} = now() from due where c.sandbox_id = due.sandbox_id returning due.*`,
      [everyMs],
    );
  }

  readonly #sample = async (due: Due): Promise<void> => {
    const { host, pool } = this.#platform;
    const stats = await host.stats(due.box_now, this.#stop.signal);
    if (!stats) return;
    const isSameBox = due.box_key === due.box_now;
    const { cpuMicros, oomKills } = stats;
    const sent = stats.outbound?.sentBytes ?? null;
    const received = stats.outbound?.receivedBytes ?? null;
    const percent = isSameBox
      ? cpuPercent(
          { micros: number(due.cpu_micros), at: due.at.getTime() },
          { micros: cpuMicros, at: Date.now() },
        )
      : null;
    await pool.query(
      `insert into sandbox_samples (sandbox_id, at, cpu_percent, memory_mb, disk_mb, processes) values ($1, now(), $2, $3, $4, $5)`,
      [due.sandbox_id, percent, inMib(stats.memoryBytes), inMib(stats.diskBytes), stats.processes],
    );
    await pool.query(
      `update sandbox_counters set box_key = $2, cpu_micros = $3, oom_kills = $4, sent_bytes = $5, received_bytes = $6,
         cpu_micros_before = cpu_micros_before + $7, sent_before = sent_before + $8, received_before = received_before + $9 where sandbox_id = $1`,
      [
        due.sandbox_id,
        due.box_now,
        cpuMicros,
        oomKills,
        sent,
        received,
        carried(number(due.cpu_micros), cpuMicros, isSameBox),
        carried(number(due.sent_bytes), sent, isSameBox),
        carried(number(due.received_bytes), received, isSameBox),
      ],
    );
  };

  readonly #lookAtPorts = async (due: Due): Promise<void> => {
    const found = await guestOf(this.#platform.host, due.box_now).ports(this.#stop.signal);
    const now = [...new Map(found.map((one) => [one.port, one])).values()];
    const known = new Set(due.ports ?? []);
    const open = now.map((one) => one.port).sort((a, b) => a - b);
    const opened = now.filter((one) => !known.has(one.port));
    const closed = [...known].filter((port) => !open.includes(port));
    if (opened.length === 0 && closed.length === 0 && due.ports !== null) return;
    await this.#platform.pool.query("update sandbox_counters set ports = $2 where sandbox_id = $1", [
      due.sandbox_id,
      JSON.stringify(open),
    ]);
    for (const one of opened)
      await record(this.#platform, {
        ...this.#owner(due),
        type: "sandbox.port_opened",
        data: {
          id: due.sandbox_id,
          port: one.port,
          process: one.process,
          loopback_only: one.loopbackOnly,
          suggestion: one.loopbackOnly
            ? `Port ${one.port} is bound to 127.0.0.1. Bind it to 0.0.0.0, then expose it.`
            : `POST /sandboxes/${due.sandbox_id}/expose {"port": ${one.port}}`,
        },
      });
    for (const port of closed)
      await record(this.#platform, {
        ...this.#owner(due),
        type: "sandbox.port_closed",
        data: { id: due.sandbox_id, port },
      });
  };

  #owner(due: Due) {
    return {
      tenantId: due.tenant_id,
      workspaceId: due.workspace_id,
      resourceType: "sandbox",
      resourceId: due.sandbox_id,
    };
  }
}

/** Keeps a week: every point of the last two hours, before that those of each fifth minute. */
export async function trimSamples(platform: Platform): Promise<void> {
  await platform.pool.query(
    `delete from sandbox_samples where at < now() - interval '7 days'
       or (at < now() - interval '2 hours' and extract(minute from at)::int % 5 <> 0)`,
  );
}
