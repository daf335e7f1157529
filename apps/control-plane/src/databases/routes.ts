import { setTimeout as delay } from "node:timers/promises";
import { PlatformError, databaseRoutes as r } from "@platform/contract";
import { HostError, type DatabaseStats } from "@platform/host-api";
import { handler, openEventStream, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { ownedBy, page } from "../tenants/index.ts";
import { backupsOf, backupView, requestBackup } from "./backups.ts";
import { wantArchive } from "./archive.ts";
import { windowView } from "./point-in-time.ts";
import { branchDatabase, restoreBackup } from "./copies.ts";
import { rotateCredentials } from "./rotation.ts";
import { forgetWayBack, requestUpgrade, requestWayBack } from "./upgrade.ts";
import { createDatabase } from "./create.ts";
import {
  credentialsView,
  databaseView,
  hasLeftBackup,
  loadDatabase,
  notReady,
  ownDatabase,
  type DatabaseRow,
} from "./store.ts";

const settleMs = 60_000;

export async function wantDatabase(
  platform: Platform,
  id: string,
  set: Record<string, unknown>,
): Promise<void> {
  const names = Object.keys(set);
  await platform.pool.query(
    `update databases set generation = generation + 1, next_look_at = now(), updated_at = now()${names.map((name, index) => `, ${name} = $${index + 2}`).join("")} where id = $1`,
    [id, ...Object.values(set)],
  );
  platform.signals.announce("work:databases");
}

const settled = (platform: Platform, id: string, done: (row: DatabaseRow) => boolean, timeoutMs = settleMs) =>
  platform.signals.until(`database:${id}`, timeoutMs, async () => {
    const row = await loadDatabase(platform.pool, id);
    return row && done(row) ? row : undefined;
  });

/** @throws PlatformError DATABASE_NOT_READY unless a login just succeeded with what is handed out */
async function provedCredentials(platform: Platform, row: DatabaseRow) {
  if (row.state !== "running") throw notReady(row);
  try {
    return await platform.host.credentials(row.host_key);
  } catch (error) {
    if (error instanceof HostError)
      throw new PlatformError("DATABASE_NOT_READY", "The database's machine does not answer now. Retry.", {
        retryAfterMs: 2000,
        cause: error,
      });
    throw error;
  }
}

export function databaseHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const own = (call: Call) => ownDatabase(pool, call.caller, call.params["id"]!);
  const ownOrDeleted = (call: Call) => ownDatabase(pool, call.caller, call.params["id"]!, true);
  const running = async (call: Call) => {
    const row = await own(call);
    if (row.state !== "running") throw notReady(row);
    return row;
  };
  const act = async (call: Call, set: Record<string, unknown>, done: (row: DatabaseRow) => boolean) => {
    const row = await own(call);
    await wantDatabase(platform, row.id, set);
    return databaseView((await settled(platform, row.id, done)) ?? (await loadDatabase(pool, row.id))!);
  };
  return [
    handler(r.list, async ({ caller, query }) => {
      const isLookingBack = query.state === "deleted";
      const conditions = ownedBy(caller, query).raw(isLookingBack ? hasLeftBackup : "state <> 'deleted'");
      if (query.state) conditions.add("state = $?", query.state);
      const { rows, next_cursor } = await page<DatabaseRow>(pool, "databases", conditions, query);
      return { data: rows.map(databaseView), ...(next_cursor ? { next_cursor } : {}) };
    }),
    handler(r.create, async (call) =>
      databaseView(await createDatabase(platform, call as unknown as Call, call.body)),
    ),
    handler(r.get, async (call) => databaseView(await own(call as Call))),
    handler(r.remove, async (call) => {
      const row = await own(call as Call);
      await wantDatabase(platform, row.id, { desired: "deleted" });
      const gone = await settled(platform, row.id, (now) => now.state === "deleted");
      if (!gone)
        throw new PlatformError(
          "HOST_UNAVAILABLE",
          "The database is still being removed. It will be; ask again to see.",
          { retryAfterMs: 5000 },
        );
      return { id: row.id, deleted: true };
    }),
    handler(r.start, async (call) =>
      act(call as Call, { desired: "running" }, (row) => row.state === "running"),
    ),
    handler(r.stop, async (call) =>
      act(call as Call, { desired: "stopped" }, (row) => row.state === "stopped"),
    ),
    handler(r.restart, async (call) =>
      act(
        call as Call,
        { desired: "running", action: "restart" },
        (row) => row.action === null && row.state === "running",
      ),
    ),
    handler(r.credentials, async (call) =>
      credentialsView(await provedCredentials(platform, await own(call as Call))),
    ),
    handler(r.rotate, async (call) => {
      const row = await own(call as Call);
      return credentialsView(await rotateCredentials(platform, row, call.body.overlap_sec));
    }),
    handler(r.users, async (call) => platform.host.databaseUsers((await running(call as Call)).host_key)),
    handler(r.createUser, async (call) => {
      const row = await running(call as unknown as Call);
      const { name, access } = call.body;
      const credentials = await platform.host.putDatabaseUser(row.host_key, name, access);
      return { name, access, ...credentialsView(credentials) };
    }),
    handler(r.removeUser, async (call) => {
      const row = await running(call as Call);
      await platform.host.removeDatabaseUser(row.host_key, call.params["name"]!);
      return { name: call.params["name"]!, deleted: true };
    }),
    handler(r.logs, async (call) => {
      const row = await own(call as Call);
      const lines = await platform.host.databaseLogs(row.host_key, call.query.lines).catch(() => []);
      const logs = lines.map((line) => ({ t: lineTime(line), stream: "stderr", line }));
      return { data: { database_id: row.id, logs }, lines };
    }),
    handler(r.logsStream, async (call) => {
      const row = await own(call as Call);
      const stream = openEventStream(call.reply);
      let last: string[] = [];
      while (!stream.signal.aborted) {
        const lines = await platform.host.databaseLogs(row.host_key, 500).catch(() => last);
        const from =
          last.length === 0 ? Math.max(0, lines.length - 100) : lines.lastIndexOf(last.at(-1)!) + 1;
        for (const line of lines.slice(from))
          stream.send("log_line", {
            line,
            message: line,
            stream: "stderr",
            level: "info",
            t: lineTime(line),
          });
        last = lines;
        await delay(1000, undefined, { signal: stream.signal }).catch(() => undefined); // The client went away.
      }
    }),
    handler(r.metrics, async (call) => {
      const row = await own(call as Call);
      const now =
        row.state === "running" ? await platform.host.databaseStats(row.host_key).catch(() => null) : null;
      return {
        resource_type: "database",
        database_id: row.id,
        window: call.query.window,
        current: {
          state: row.state,
          engine: row.engine,
          engine_version: row.engine_version,
          cpu_count: row.cpu_count,
          memory_mb: row.memory_mb,
          storage_mb: row.storage_mb,
          port: row.port,
          uptime_sec: now?.uptimeSec ?? null,
          node_id: null,
          ip_address: null,
          memory_used_mb: now?.memoryBytes == null ? null : Math.round(now.memoryBytes / 1024 / 1024),
          storage_used_mb: now?.storageBytes == null ? null : Math.round(now.storageBytes / 1024 / 1024),
          storage_limit_mb:
            now?.storageLimitBytes == null ? null : Math.round(now.storageLimitBytes / 1024 / 1024),
          connections: now?.connections ?? null,
          cache_hit_ratio: now?.cacheHitRatio ?? null,
          slow_queries: slowView(now?.slowQueries),
        },
        series: {},
      };
    }),
    handler(r.backups, async (call) => {
      const row = await ownOrDeleted(call as Call);
      return (await backupsOf(pool, row.id)).map(backupView);
    }),
    ...[r.createBackup, r.createBackupOld].map((route) =>
      handler(route, async (call) => {
        const row = await running(call as Call);
        return backupView(await requestBackup(platform, row, "manual", call.idFor("backup")));
      }),
    ),
    ...[r.restore, r.restoreOld].map((route) =>
      handler(route, async (call) => {
        const row = await ownOrDeleted(call as unknown as Call);
        const made = await restoreBackup(platform, call as unknown as Call, row, call.body);
        const { backup_id = made.source?.backup_id, target_time } = call.body;
        const moment = target_time === undefined ? {} : { target_time: made.source?.target_time };
        return { id: made.id, database_id: made.id, backup_id, ...moment, state: made.state };
      }),
    ),
    handler(r.branch, async (call) => {
      const row = await running(call as unknown as Call);
      return databaseView(await branchDatabase(platform, call as unknown as Call, row, call.body.name));
    }),
    handler(r.upgrade, async (call) => {
      const row = await own(call as unknown as Call);
      await requestUpgrade(platform, row, call.body);
      return databaseView((await loadDatabase(pool, row.id))!);
    }),
    handler(r.goBack, async (call) => {
      const row = await own(call as Call);
      await requestWayBack(platform, row);
      return databaseView((await loadDatabase(pool, row.id))!);
    }),
    handler(r.forgetWayBack, async (call) => {
      const row = await own(call as Call);
      await forgetWayBack(platform, row);
      return databaseView((await loadDatabase(pool, row.id))!);
    }),
    handler(r.pointInTime, async (call) => windowView(platform, await own(call as Call))),
    handler(r.backupPolicy, async (call) => {
      const row = await own(call as unknown as Call);
      const { enabled, point_in_time, window_days, ...policy } = call.body;
      if (point_in_time && row.engine !== "postgresql")
        throw new PlatformError(
          "VALIDATION_FAILED",
          `${row.engine} has no log by which a moment could be restored. Use backups, or postgresql.`,
          { errors: { point_in_time: ["is for postgresql only"] } },
        );
      await wantArchive(platform, row, enabled && point_in_time ? window_days : null);
      await wantDatabase(platform, row.id, { backup_policy: enabled ? JSON.stringify(policy) : null });
      return databaseView((await loadDatabase(pool, row.id))!);
    }),
  ];
}

const lineTime = (line: string) =>
  /^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[.\d]*/.exec(line)?.[0].replace(" ", "T") ?? null;

const slowView = (slow: DatabaseStats["slowQueries"] | undefined) =>
  slow
    ? {
        longer_than_ms: slow.longerThanMs,
        count: slow.count,
        statements:
          slow.statements?.map(({ text, calls, meanMs, maxMs }) => ({
            ...{ text, calls, mean_ms: Math.round(meanMs), max_ms: Math.round(maxMs) },
          })) ?? null,
      }
    : null;
