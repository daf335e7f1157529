import { statSync, truncateSync } from "node:fs";
import type { Log } from "@platform/daemon";
import { isAlive } from "@platform/postgres";
import { loginFailed, save, type Entry } from "./entry.ts";
import type { SoftQuota } from "./kind.ts";
import type { Pooling } from "./pooling.ts";
import { bringUp, halt, type Acting } from "./server.ts";
import type { Turns } from "./turns.ts";

const logLimitBytes = 16 * 1024 * 1024;
const reclaimEveryMs = 2000;

/** The server runs and answers; starting it again would cure none of these. */
const cannotBeRevived = new Set(["disk_full", "read_only", "too_many_connections", "auth_failed"]);

/** What the engine lends to its supervision. */
export interface Watched {
  readonly entries: ReadonlyMap<string, Entry>;
  readonly turns: Turns;
  readonly pooling: Pooling | null;
  readonly log: Log;
  /** `null` before the engine was opened: nothing is watched then. */
  acting(): Acting | null;
  isClosed(): boolean;
  settlePool(entry: Entry, acting: Acting): Promise<void>;
}

/** One look at every server: what should run and does not is started again, what is too large is held. */
export function supervise(watched: Watched): void {
  const acting = watched.acting();
  if (acting === null) return;
  for (const [key, entry] of watched.entries) {
    const { state, server, failure } = entry;
    if (state.phase !== "ready" || watched.turns.isBusy(key)) continue;
    limitLog(entry);
    const alive = server !== null && isAlive(server);
    if (alive) watchQuota(watched, acting, key, entry);
    const isWell = alive && (failure === null || cannotBeRevived.has(failure.reason));
    if (state.wanted !== "running") continue;
    if (isWell) {
      watchPool(watched, acting, key, entry);
      continue;
    }
    if (performance.now() < entry.nextStartAt) continue;
    void watched.turns
      .run(key, () => revive(watched, acting, key, entry))
      .catch((error: unknown) => startFailed(watched.log, entry, error));
  }
}

/** After a restart of the daemon: what runs is taken over, what should run is started, the rest stopped. */
export async function recover(watched: Watched, acting: Acting): Promise<void> {
  const one = async (key: string) => {
    const entry = watched.entries.get(key);
    if (entry?.state.phase !== "ready") return;
    if (entry.state.wanted === "stopped") {
      await watched.pooling?.stop(entry);
      return halt(entry, acting.kind);
    }
    // A database that does not come up is reported as failed and tried again; it stops no other.
    await bringUp(entry, acting).catch((error: unknown) => startFailed(watched.log, entry, error));
    await watched.settlePool(entry, acting);
  };
  await Promise.all([...watched.entries.keys()].map((key) => watched.turns.run(key, () => one(key))));
}

function watchPool(watched: Watched, acting: Acting, key: string, entry: Entry): void {
  if (watched.pooling?.needsCare(entry) !== true || performance.now() < entry.nextPoolAt) return;
  entry.nextPoolAt = performance.now() + Math.min(30_000, 250 * 2 ** Math.min(entry.poolFailures++, 10));
  const settle = watched.turns.run(key, async () => {
    if (watched.isClosed() || watched.entries.get(key) !== entry) return;
    watched.log.warn({ database: key }, "the pooler does not serve; bringing it up again");
    await watched.settlePool(entry, acting);
  });
  settle.catch((error: unknown) => watched.log.error({ err: error, database: key }, "the pooler failed"));
}

function watchQuota(watched: Watched, acting: Acting, key: string, entry: Entry): void {
  const { turns, entries, log } = watched;
  const { limits, authority, kind } = acting;
  const { quota } = kind;
  if (quota === null) return;
  const isOver = () => limits.disk(entry, kind)?.isFull ?? false;
  if (isOver() === entry.state.restricted) {
    if (entry.state.restricted && quota.reclaim) reclaim(quota.reclaim, watched, acting, key, entry);
    return;
  }
  const settle = turns.run(key, async () => {
    if (entries.get(key) !== entry || entry.state.phase !== "ready") return;
    const isRestricted = isOver();
    if (entry.state.restricted === isRestricted) return;
    // Noted first: whatever account is made meanwhile then is held to it as well.
    save(entry, { restricted: isRestricted });
    await quota.restrict(entry, authority, isRestricted);
    if (!isRestricted) await limits.keepRoom(entry);
  });
  settle.catch((error: unknown) =>
    log.error({ err: error, database: key }, "the size of a database could not be enforced; trying again"),
  );
}

function reclaim(
  begin: NonNullable<SoftQuota["reclaim"]>,
  { turns, entries, log }: Watched,
  acting: Acting,
  key: string,
  entry: Entry,
): void {
  if (performance.now() < entry.nextReclaimAt) return;
  entry.nextReclaimAt = performance.now() + reclaimEveryMs;
  const begun = turns.run(key, async () => {
    if (entries.get(key) !== entry || entry.state.phase !== "ready") return;
    await acting.limits.makeRoom(entry);
    await begin(entry, acting.authority);
  });
  begun.catch((error: unknown) =>
    log.warn(
      { err: error, database: key },
      "the files of a full database were not made smaller; trying again",
    ),
  );
}

async function revive(watched: Watched, acting: Acting, key: string, entry: Entry): Promise<void> {
  const { entries, log } = watched;
  if (watched.isClosed() || entries.get(key) !== entry || entry.state.wanted !== "running") return;
  log.warn({ database: key, pid: entry.server?.pid }, "the database does not serve; bringing it up again");
  const proof = await bringUp(entry, acting);
  if (!proof.ok) throw loginFailed(entry, proof);
}

function startFailed(log: Log, entry: Entry, error: unknown): void {
  entry.nextStartAt = performance.now() + Math.min(30_000, 250 * 2 ** Math.min(entry.failures++, 10));
  entry.failure ??= {
    reason: "start_failed",
    detail: error instanceof Error ? error.message : String(error),
  };
  log.error({ err: error, database: entry.state.key }, "the database does not come up; trying again");
}

/** The server appends, so cutting the file is safe; a tenant's errors must not fill the disk. */
function limitLog(entry: Entry): void {
  const size = statSync(entry.folders.logFile, { throwIfNoEntry: false })?.size ?? 0;
  if (size > logLimitBytes) truncateSync(entry.folders.logFile, 0);
}
