import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { createZstdCompress, createZstdDecompress } from "node:zlib";
import { faultPoint } from "@platform/daemon";
import { HostError } from "@platform/host-api";
import { query, queryOne, type Queryable } from "@platform/postgres";
import { record } from "../events/index.ts";
import type { Platform } from "../platform.ts";
import { getStoreObject, putStoreBucket, putStoreObject } from "../storage/index.ts";
import { discardObjects } from "./discarding.ts";
import { DamagedStreamError, openStream, sealStream } from "./sealed-stream.ts";
import { specOf } from "./spec.ts";
import { announce, databaseEvent, loadDatabase, type BackupState, type DatabaseRow } from "./store.ts";

export interface BackupRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly database_id: string;
  /** `base`: what the log is replayed on to reach a moment. */
  readonly kind: "manual" | "scheduled" | "final" | "base";
  readonly state: "pending" | "running" | "completed" | "failed" | "damaged" | "expired";
  readonly object_key: string;
  readonly key_sealed: Buffer;
  readonly size_bytes: string | null;
  readonly parts: number | null;
  readonly reason: string | null;
  readonly error: string | null;
  readonly completed_at: Date | null;
  readonly restored_ok_at: Date | null;
  readonly drill_ms: number | null;
  readonly expires_at: Date | null;
  readonly created_at: Date;
  /** Of a base: the first segment of the log that leads on from it. */
  readonly wal_from: string | null;
  /** Major version of the server that it is of; null for those of earlier releases: the database's own. */
  readonly engine_version: string | null;
}

const idleMs = 3_600_000;
const attempts = 3;
/** Held in memory, one at a time. */
const partBytes = 8 * 1024 * 1024;

/** One bucket for a tenant's backups, of the platform's own: it is in no list of buckets. */
export const bucketOf = (row: { tenant_id: string }) => row.tenant_id;

export const loadBackup = (db: Queryable, id: string) =>
  queryOne<BackupRow>(db, "select * from database_backups where id = $1", [id]);

export const backupsOf = (db: Queryable, databaseId: string) =>
  query<BackupRow>(
    db,
    "select * from database_backups where database_id = $1 and state <> 'expired' order by created_at desc limit 200",
    [databaseId],
  );

/** The database as it was at the backup: an upgrade may lie between. */
export const ofBackup = (database: DatabaseRow, { engine_version }: BackupRow): DatabaseRow =>
  engine_version === null ? database : { ...database, engine_version };

export const backupView = (row: BackupRow) => ({
  id: row.id,
  database_id: row.database_id,
  kind: row.kind,
  engine_version: row.engine_version,
  state: row.state,
  size_bytes: row.size_bytes === null ? null : Number(row.size_bytes),
  encrypted: true,
  reason: row.reason,
  last_error: row.error,
  inserted_at: row.created_at.toISOString(),
  completed_at: row.completed_at?.toISOString() ?? null,
  restored_ok_at: row.restored_ok_at?.toISOString() ?? null,
  restore_test_ms: row.drill_ms === null ? null : Math.round(row.drill_ms),
  expires_at: row.expires_at?.toISOString() ?? null,
});

/** Asks for a backup; the same id again asks for the same one. Its key is made with it and only kept sealed. */
export async function requestBackup(
  platform: Platform,
  row: DatabaseRow,
  kind: BackupRow["kind"],
  id: string,
  walFrom: string | null = null,
): Promise<BackupRow> {
  await platform.pool.query(
    `insert into database_backups (id, tenant_id, database_id, kind, object_key, key_sealed, wal_from, engine_version)
     values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (id) do nothing`,
    [
      id,
      row.tenant_id,
      row.id,
      kind,
      `${row.id}/${id}`,
      platform.seal.close(randomBytes(32).toString("hex")),
      walFrom,
      row.engine_version,
    ],
  );
  platform.signals.announce("work:database_backups");
  return (await loadBackup(platform.pool, id))!;
}

export function createBackupStep(platform: Platform) {
  return async (id: string, signal: AbortSignal): Promise<number> => {
    const row = await loadBackup(platform.pool, id);
    const database = row && (await loadDatabase(platform.pool, row.database_id));
    if (!row || !database) return idleMs;
    if (row.state === "pending" || row.state === "running") return take(platform, row, database, signal);
    if (row.state === "failed") return row.parts === null ? discardFailed(platform, row) : idleMs;
    if (row.expires_at && row.expires_at.getTime() <= Date.now()) return expire(platform, row);
    // A damaged one stays until it expires: what was changed in it may be wanted by whoever asks why.
    if (row.state !== "completed") return idleMs;
    if (!row.restored_ok_at) return drill(platform, row, database, signal);
    return row.expires_at ? Math.max(1000, row.expires_at.getTime() - Date.now()) : idleMs;
  };
}

/** Safe to run again. */
export async function putBackupBucket(platform: Platform, row: { tenant_id: string }): Promise<void> {
  const name = `backups-${row.tenant_id}`;
  await putStoreBucket(platform, bucketOf(row), { name, quotaBytes: null, public: false });
}

const keyOf = (platform: Platform, row: BackupRow) => Buffer.from(platform.seal.open(row.key_sealed), "hex");

async function take(
  platform: Platform,
  row: BackupRow,
  database: DatabaseRow,
  signal: AbortSignal,
): Promise<number> {
  await set(platform, row, { state: "running" });
  faultPoint("control-plane.backup.running");
  let size = 0;
  let parts = 0;
  let frames: Readable | null = null;
  try {
    await putBackupBucket(platform, row);
    frames = await platform.host.backup(database.host_key, signal);
    // A stream that breaks off must break the next one too, or a half would be stored as a whole.
    const packed = createZstdCompress();
    frames.once("error", (error) => packed.destroy(error));
    for await (const part of partsOf(sealStream(frames.pipe(packed), keyOf(platform, row)))) {
      signal.throwIfAborted();
      const headers = { "content-type": "application/octet-stream", "content-length": String(part.length) };
      await putStoreObject(platform, bucketOf(row), partKey(row, parts), Readable.from([part]), headers);
      parts += 1;
      size += part.length;
    }
    // An attempt that was cut off may have stored more.
    await discardObjects(
      platform,
      bucketOf(row),
      partsPrefix(row),
      parts === 0 ? "" : partKey(row, parts - 1),
    );
  } catch (error) {
    // The host's session ends with it.
    frames?.destroy();
    signal.throwIfAborted();
    return failed(platform, row, database, error);
  }
  faultPoint("control-plane.backup.stored");
  await set(platform, row, {
    state: "completed",
    engine_version: database.engine_version,
    size_bytes: size,
    parts,
    completed_at: new Date(),
    reason: null,
    error: null,
  });
  await setState(platform, database, { status: "ok", reason: null, detail: null });
  await record(
    platform,
    databaseEvent(database, "database.backup_completed", { backup_id: row.id, kind: row.kind }),
  );
  await expireOlder(platform, database);
  return 0;
}

export function reasonOf(error: unknown): { reason: string; detail: string } {
  if (error instanceof DamagedStreamError) return { reason: "damaged", detail: error.message };
  if (error instanceof HostError) {
    const reason = error.details["reason"];
    return { reason: typeof reason === "string" ? reason : error.code.toLowerCase(), detail: error.message };
  }
  const code = (error as { code?: unknown }).code;
  const detail = error instanceof Error ? error.message : String(error);
  return { reason: code === "STORAGE_UNAVAILABLE" ? "target_unavailable" : "backup_failed", detail };
}

/** Red at once; a few attempts follow before the backup is given up. */
async function failed(
  platform: Platform,
  row: BackupRow,
  database: DatabaseRow,
  error: unknown,
  given: "failed" | "damaged" = "failed",
): Promise<number> {
  const { reason, detail } = reasonOf(error);
  platform.log.warn({ err: error, backup: row.id, database: database.id }, "a backup failed");
  const tried = await queryOne<{ failures: number }>(
    platform.pool,
    "update database_backups set failures = failures + 1, reason = $2, error = $3 where id = $1 returning failures",
    [row.id, reason, detail],
  );
  await setState(platform, database, { status: "failed", reason, detail });
  const isFinal = given === "damaged" || (tried?.failures ?? attempts) >= attempts;
  if (isFinal) await set(platform, row, { state: given });
  const type = "database.backup_failed";
  await record(platform, databaseEvent(database, type, { backup_id: row.id, reason, final: isFinal }));
  return isFinal ? 0 : 2_000;
}

/** The store wants to know how long an object is, which a stream does not: so it becomes several. */
async function* partsOf(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let kept: Buffer[] = [];
  let size = 0;
  for await (const chunk of source) {
    kept.push(chunk);
    size += chunk.length;
    if (size < partBytes) continue;
    yield Buffer.concat(kept);
    kept = [];
    size = 0;
  }
  if (size > 0) yield Buffer.concat(kept);
}

const partsPrefix = (row: BackupRow) => `${row.object_key}/`;
const partKey = (row: BackupRow, index: number) => `${partsPrefix(row)}${String(index).padStart(6, "0")}`;

async function* storedParts(platform: Platform, row: BackupRow, signal: AbortSignal): AsyncGenerator<Buffer> {
  for (let index = 0; index < (row.parts ?? 0); index++) {
    const answer = await getStoreObject(platform, bucketOf(row), partKey(row, index), {}, signal);
    if (!answer) throw new DamagedStreamError(`part ${index} is not there any more`);
    yield* answer.body as AsyncIterable<Buffer>;
  }
}

/** The stored stream, verified piece by piece while it is read; it ends in an error when it is not whole. */
export function contentOf(platform: Platform, row: BackupRow, signal: AbortSignal): Readable {
  const unpacked = createZstdDecompress();
  const opened = Readable.from(openStream(storedParts(platform, row, signal), keyOf(platform, row)));
  opened.once("error", (error) => unpacked.destroy(error));
  return opened.pipe(unpacked);
}

/** A backup is one when a server was made of it: into a scratch database, which logs in, and is removed. */
async function drill(
  platform: Platform,
  row: BackupRow,
  database: DatabaseRow,
  signal: AbortSignal,
): Promise<number> {
  const key = `drill-${row.id}`;
  const startedAt = performance.now();
  let damage: unknown = null;
  try {
    await platform.host.deleteDatabase(key, signal);
    const content = contentOf(platform, row, signal);
    content.once("error", (error) => (damage = error));
    await platform.host.restore(
      key,
      { spec: specOf(platform, ofBackup(database, row)), targetTime: null },
      content,
      signal,
    );
    const proof = await platform.host.probe(key, signal);
    if (!proof.ok) throw new Error(`the restored database does not let in: ${proof.reason}`);
  } catch (error) {
    signal.throwIfAborted();
    const cause = damage ?? error;
    const isDamage =
      cause instanceof DamagedStreamError || (cause instanceof HostError && cause.code === "INVALID");
    // A host or a store that is away says nothing about the backup: it is tried again.
    if (!isDamage) throw cause;
    return await failed(platform, row, database, cause, "damaged");
  } finally {
    await platform.host.deleteDatabase(key).catch((error: unknown) => {
      platform.log.warn({ err: error, backup: row.id }, "a scratch database was not removed; it will be");
    });
  }
  await set(platform, row, { restored_ok_at: new Date(), drill_ms: performance.now() - startedAt });
  return 0;
}

async function expire(platform: Platform, row: BackupRow): Promise<number> {
  await discardObjects(platform, bucketOf(row), partsPrefix(row));
  await set(platform, row, { state: "expired" });
  return idleMs;
}

/** Of a backup that was given up nothing stays; with the store away that waits for it. */
async function discardFailed(platform: Platform, row: BackupRow): Promise<number> {
  await putBackupBucket(platform, row);
  await discardObjects(platform, bucketOf(row), partsPrefix(row));
  await set(platform, row, { parts: 0 });
  return idleMs;
}

/** Of the scheduled ones the newest are kept; others go by their own dates. */
async function expireOlder(platform: Platform, database: DatabaseRow): Promise<void> {
  const keep = database.backup_policy?.keep;
  if (!keep) return;
  await platform.pool.query(
    `update database_backups set expires_at = now(), next_look_at = now() where database_id = $1 and kind = 'scheduled'
       and state = 'completed' and expires_at is null and id not in (select id from database_backups
         where database_id = $1 and kind = 'scheduled' and state = 'completed' order by created_at desc limit $2)`,
    [database.id, keep],
  );
}

async function set(platform: Platform, row: BackupRow, values: Record<string, unknown>): Promise<void> {
  const names = Object.keys(values);
  await platform.pool.query(
    `update database_backups set ${names.map((name, index) => `${name} = $${index + 2}`).join(", ")} where id = $1`,
    [row.id, ...Object.values(values)],
  );
  announce(platform, row.database_id);
}

export async function setState(
  platform: Platform,
  database: DatabaseRow,
  seen: Pick<BackupState, "status" | "reason" | "detail">,
): Promise<void> {
  const at = new Date().toISOString();
  await platform.pool.query(
    `update databases set backup_state = jsonb_build_object('status', $2::text, 'reason', $3::text, 'detail', $4::text,
       'at', $5::text, 'last_ok_at', case when $2 = 'ok' then $5 else backup_state->>'last_ok_at' end) where id = $1`,
    [database.id, seen.status, seen.reason, seen.detail, at],
  );
  announce(platform, database.id);
}
