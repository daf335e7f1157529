import { hkdfSync, randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { promisify } from "node:util";
import { zstdCompress, zstdDecompress } from "node:zlib";
import { faultPoint } from "@platform/daemon";
import { query, queryOne, type Queryable } from "@platform/postgres";
import { record } from "../events/index.ts";
import { derivedId } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { deleteStoreObject, getStoreObject, putStoreObject } from "../storage/index.ts";
import { bucketOf, putBackupBucket, reasonOf, requestBackup, setState, type BackupRow } from "./backups.ts";
import { discardObjects } from "./discarding.ts";
import { DamagedStreamError, openStream, sealStream } from "./sealed-stream.ts";
import { announce, databaseEvent, loadDatabase, type DatabaseRow } from "./store.ts";

/** The log of one database, stored segment by segment beside its backups. */
export interface ArchiveRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly key_sealed: Buffer;
  readonly generation: string;
  readonly wanted: boolean;
  readonly window_days: number;
  /** Everything that was acknowledged until then is stored. */
  readonly through: Date | null;
  readonly status: "starting" | "ok" | "failed";
  readonly reason: string | null;
  readonly error: string | null;
  readonly created_at: Date;
}

/** With the server's own 30 s at most a minute of work is not stored yet. */
const everyMs = 15_000;
const unwellMs = 3_000;
const idleMs = 3_600_000;
/** A new base this often, so that a restore has at most a day of log to replay. */
const baseEveryHours = 24;

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);

export const loadArchive = (db: Queryable, id: string) =>
  queryOne<ArchiveRow>(db, "select * from database_archives where id = $1", [id]);

export async function wantArchive(
  platform: Platform,
  row: DatabaseRow,
  windowDays: number | null,
): Promise<void> {
  if (windowDays === null)
    await platform.pool.query(
      "update database_archives set wanted = false, generation = generation + 1, next_look_at = now() where id = $1",
      [row.id],
    );
  else
    await platform.pool.query(
      `insert into database_archives (id, tenant_id, key_sealed, window_days) values ($1, $2, $3, $4)
       on conflict (id) do update set wanted = true, window_days = excluded.window_days,
         generation = database_archives.generation + 1, next_look_at = now()`,
      [row.id, row.tenant_id, platform.seal.close(randomBytes(32).toString("hex")), windowDays],
    );
  platform.signals.announce("work:database_archives");
}

export function createArchiveStep(platform: Platform) {
  return async (id: string, signal: AbortSignal): Promise<number> => {
    const row = await loadArchive(platform.pool, id);
    const database = row && (await loadDatabase(platform.pool, id));
    if (!row || !database) return idleMs;
    if (!row.wanted || database.desired === "deleted") return end(platform, row, database, signal);
    // A server that is stopped acknowledges nothing; one that is away is red already.
    if (database.state !== "running") return unwellMs;
    try {
      await store(platform, row, database, signal);
    } catch (error) {
      signal.throwIfAborted();
      await failed(platform, row, database, error);
      return unwellMs;
    }
    await dropOld(platform, row);
    return everyMs;
  };
}

async function store(
  platform: Platform,
  row: ArchiveRow,
  database: DatabaseRow,
  signal: AbortSignal,
): Promise<void> {
  await putBackupBucket(platform, row);
  const stock = await platform.host.takeLog(database.host_key, signal);
  for (const name of stock.segments) {
    signal.throwIfAborted();
    const packed = await compress(await platform.host.logSegment(database.host_key, name, signal));
    const parts: Buffer[] = [];
    for await (const part of sealStream(Readable.from([packed]), segmentKey(platform, row, name)))
      parts.push(part);
    const sealed = Buffer.concat(parts);
    const headers = {
      "content-type": "application/octet-stream",
      "content-length": String(sealed.length),
    };
    await putStoreObject(platform, bucketOf(row), objectKey(row, name), Readable.from([sealed]), headers);
    faultPoint("control-plane.log.stored");
    await platform.pool.query(
      `insert into database_log_segments (archive_id, name, through, size_bytes) values ($1, $2, $3, $4)
       on conflict (archive_id, name) do update set size_bytes = excluded.size_bytes`,
      [row.id, name, stock.through, sealed.length],
    );
    await platform.host.forgetLog(database.host_key, [name], signal);
  }
  await platform.pool.query(
    `update database_archives set through = $2, status = 'ok', reason = null, error = null, failed_at = null where id = $1`,
    [row.id, stock.through],
  );
  if (row.status !== "ok") announce(platform, row.id);
  if (row.status === "failed")
    await setState(platform, database, { status: "ok", reason: null, detail: null });
  await keepBase(platform, database, stock.current, stock.hasGap);
  if (stock.hasGap) await platform.host.forgetLog(database.host_key, ["gap"], signal);
}

/** Nothing leads beyond a gap but a base that was begun after it. */
async function keepBase(
  platform: Platform,
  database: DatabaseRow,
  current: string,
  isNew: boolean,
): Promise<void> {
  const recent = await queryOne(
    platform.pool,
    `select 1 from database_backups where database_id = $1 and kind = 'base' and state in ('pending', 'running', 'completed')
       and expires_at is null and created_at > now() - $2 * interval '1 hour' limit 1`,
    [database.id, baseEveryHours],
  );
  if (recent && !isNew) return;
  // Of a server where nothing happens the segment stays the same, also when a base failed.
  const tenMinutes = String(Math.floor(Date.now() / 600_000));
  const id = derivedId(database.id, "base", current, tenMinutes);
  await requestBackup(platform, database, "base", id, current);
}

/** The newest base before the window is what its beginning is reached from; what is older leads nowhere. */
async function dropOld(platform: Platform, row: ArchiveRow): Promise<void> {
  const oldest = await queryOne<Pick<BackupRow, "id" | "wal_from" | "completed_at">>(
    platform.pool,
    `select id, wal_from, completed_at from database_backups where database_id = $1 and kind = 'base' and state = 'completed'
       and expires_at is null and completed_at <= now() - $2 * interval '1 day' order by completed_at desc limit 1`,
    [row.id, row.window_days],
  );
  if (!oldest?.wal_from) return;
  await platform.pool.query(
    `update database_backups set expires_at = now(), next_look_at = now() where database_id = $1 and kind = 'base'
       and state = 'completed' and expires_at is null and completed_at < $2`,
    [row.id, oldest.completed_at],
  );
  await dropSegments(platform, row, oldest.wal_from);
}

/** Objects first, as none may be left without a row; nothing is ever restored from what is dropped here. */
async function dropSegments(platform: Platform, row: ArchiveRow, before: string | null): Promise<void> {
  const old = await query<{ name: string }>(
    platform.pool,
    "select name from database_log_segments where archive_id = $1 and ($2::text is null or name < $2) order by name limit 1000",
    [row.id, before],
  );
  for (const { name } of old) {
    await deleteStoreObject(platform, bucketOf(row), objectKey(row, name));
    await platform.pool.query("delete from database_log_segments where archive_id = $1 and name = $2", [
      row.id,
      name,
    ]);
  }
}

async function end(
  platform: Platform,
  row: ArchiveRow,
  database: DatabaseRow,
  signal: AbortSignal,
): Promise<number> {
  if (database.state === "running") await platform.host.stopLog(database.host_key, signal);
  await platform.pool.query(
    "update database_backups set expires_at = now(), next_look_at = now() where database_id = $1 and kind = 'base' and expires_at is null",
    [row.id],
  );
  await dropSegments(platform, row, null);
  const left = await queryOne(
    platform.pool,
    "select 1 from database_log_segments where archive_id = $1 limit 1",
    [row.id],
  );
  if (left) return 0;
  // Stored by a control plane that ended before it wrote that down.
  await discardObjects(platform, bucketOf(row), objectKey(row, ""));
  // Not if it was switched on again meanwhile.
  await platform.pool.query("delete from database_archives where id = $1 and generation = $2", [
    row.id,
    row.generation,
  ]);
  announce(platform, row.id);
  return idleMs;
}

/** Red at the first failure, told once. */
async function failed(
  platform: Platform,
  row: ArchiveRow,
  database: DatabaseRow,
  error: unknown,
): Promise<void> {
  const { reason, detail } = reasonOf(error);
  platform.log.warn({ err: error, database: row.id }, "the log of a database could not be stored");
  await platform.pool.query(
    `update database_archives set status = 'failed', reason = $2, error = $3, failed_at = coalesce(failed_at, now()) where id = $1`,
    [row.id, reason, detail],
  );
  await setState(platform, database, { status: "failed", reason, detail });
  if (row.status === "failed") return;
  await record(platform, databaseEvent(database, "database.backup_failed", { kind: "log", reason }));
}

const objectKey = (row: { id: string }, name: string) => `${row.id}/log/${name}`;

/** Each segment has a key of its own, so that none can stand for another. */
function segmentKey(platform: Platform, row: ArchiveRow, name: string): Buffer {
  const key = Buffer.from(platform.seal.open(row.key_sealed), "hex");
  return Buffer.from(hkdfSync("sha256", key, "", `log segment ${name}`, 32));
}

/** A stored segment that breaks off so often, while the store answers, is not whole. */
const readings = 3;

/** @throws DamagedStreamError when it is not there, or not what was stored */
export async function readSegment(
  platform: Platform,
  row: ArchiveRow,
  name: string,
  signal: AbortSignal,
): Promise<Buffer> {
  for (let reading = 1; ; reading++) {
    const answer = await getStoreObject(platform, bucketOf(row), objectKey(row, name), {}, signal);
    if (!answer) throw new DamagedStreamError(`log segment ${name} is not there any more`);
    try {
      const stream = openStream(answer.body as AsyncIterable<Buffer>, segmentKey(platform, row, name));
      return await decompress(await buffer(stream));
    } catch (cause) {
      signal.throwIfAborted();
      if (cause instanceof DamagedStreamError)
        throw new DamagedStreamError(`log segment ${name} is not what was stored`);
      if (reading === readings)
        throw new DamagedStreamError(`log segment ${name} breaks off whenever it is read`);
    }
  }
}
