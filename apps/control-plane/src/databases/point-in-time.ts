import { PlatformError } from "@platform/contract";
import { encodeFile, encodeFrame, readFrames } from "@platform/host-api";
import { query } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import { loadArchive, readSegment, type ArchiveRow } from "./archive.ts";
import type { BackupRow } from "./backups.ts";
import { DamagedStreamError } from "./sealed-stream.ts";
import type { DatabaseRow } from "./store.ts";

interface Segment {
  readonly name: string;
  readonly through: Date;
}

/** Segments of 16 MiB are numbered in hexadecimal, 256 to a number before. */
export function nextSegment(name: string): string {
  const [timeline, high, low] = [name.slice(0, 8), name.slice(8, 16), name.slice(16)];
  const number = (BigInt(`0x${high}`) << 8n) + BigInt(`0x${low}`) + 1n;
  const hex = (value: bigint) => value.toString(16).toUpperCase().padStart(8, "0");
  return `${timeline}${hex(number >> 8n)}${hex(number & 255n)}`;
}

/** Those that lead on from `first` without a hole, in order. */
export function chainFrom(first: string, segments: readonly Segment[]): Segment[] {
  const byName = new Map(segments.map((segment) => [segment.name, segment]));
  const chain: Segment[] = [];
  for (let name = first; ; name = nextSegment(name)) {
    const segment = byName.get(name);
    if (!segment) return chain;
    chain.push(segment);
  }
}

const segmentsOf = (platform: Platform, id: string, from: string) =>
  query<Segment>(
    platform.pool,
    "select name, through from database_log_segments where archive_id = $1 and name >= $2 order by name",
    [id, from],
  );

const basesOf = (platform: Platform, id: string) =>
  query<BackupRow>(
    platform.pool,
    `select * from database_backups where database_id = $1 and kind = 'base' and state = 'completed'
       and (expires_at is null or expires_at > now()) and wal_from is not null order by completed_at`,
    [id],
  );

/** Until when a base can be led on. */
async function reachOf(platform: Platform, archive: ArchiveRow, base: BackupRow): Promise<Date> {
  const segments = await segmentsOf(platform, archive.id, base.wal_from!);
  const chain = chainFrom(base.wal_from!, segments);
  const isWhole = chain.length === segments.length;
  const end = isWhole ? archive.through : chain.at(-1)?.through;
  return end && end > base.completed_at! ? end : base.completed_at!;
}

/** The stretches of time that can be restored; a hole in the log lies between two of them. */
export async function windowOf(platform: Platform, row: DatabaseRow) {
  const archive = await loadArchive(platform.pool, row.id);
  if (!archive?.wanted) return null;
  const spans: { from: Date; until: Date }[] = [];
  for (const base of await basesOf(platform, row.id)) {
    const until = await reachOf(platform, archive, base);
    const last = spans.at(-1);
    if (last && last.until >= base.completed_at!) {
      if (until > last.until) last.until = until;
    } else spans.push({ from: base.completed_at!, until });
  }
  return { archive, spans };
}

export async function windowView(platform: Platform, row: DatabaseRow): Promise<Record<string, unknown>> {
  const found = await windowOf(platform, row);
  if (!found) return { enabled: false, status: null, earliest: null, latest: null, spans: [] };
  const { archive, spans } = found;
  const said = spans.map(({ from, until }) => ({
    earliest: from.toISOString(),
    latest: until.toISOString(),
  }));
  return {
    enabled: true,
    window_days: archive.window_days,
    // No more than this is lost with the machine while the status is ok.
    rpo_sec: 60,
    status: archive.status,
    reason: archive.reason,
    last_error: archive.error,
    earliest: said[0]?.earliest ?? null,
    latest: said.at(-1)?.latest ?? null,
    spans: said,
  };
}

/** The base from which the moment is reached. @throws PlatformError RESTORE_POINT_UNAVAILABLE */
export async function baseFor(platform: Platform, row: DatabaseRow, moment: Date): Promise<BackupRow> {
  const archive = await loadArchive(platform.pool, row.id);
  if (archive?.wanted) {
    for (const base of (await basesOf(platform, row.id)).reverse()) {
      if (base.completed_at! > moment) continue;
      if ((await reachOf(platform, archive, base)) >= moment) return base;
      break; // An older one ends at the same hole.
    }
  }
  const window = await windowView(platform, row);
  const spans = window["spans"] as { earliest: string; latest: string }[];
  const from = spans.map(({ earliest, latest }) => `${earliest} to ${latest}`).join(", ");
  const why = !archive?.wanted
    ? "Point-in-time restore is not switched on: PUT /databases/ID/backup-policy with point_in_time: true."
    : spans.length === 0
      ? "The first base backup is not complete yet. Retry in a minute."
      : `What can be restored: ${from}. Between two of these the log has a hole.`;
  throw new PlatformError("RESTORE_POINT_UNAVAILABLE", `${moment.toISOString()} cannot be restored. ${why}`, {
    details: window,
  });
}

/** The base's frames, then every segment that may hold something until the moment. */
export async function* withLog(
  platform: Platform,
  base: BackupRow,
  content: AsyncIterable<Buffer>,
  moment: Date,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const archive = await loadArchive(platform.pool, base.database_id);
  if (!archive) throw new DamagedStreamError("its log is not there any more");
  for await (const frame of readFrames(content)) {
    if (frame.type !== "end") yield encodeFrame(frame.type, frame.content);
  }
  const segments = await segmentsOf(platform, archive.id, base.wal_from!);
  const chain = chainFrom(base.wal_from!, segments);
  const hasAll = chain.length === segments.length && archive.through !== null && archive.through >= moment;
  const enough = chain.find(({ through }) => through >= moment)?.through;
  if (!enough && !hasAll) throw new DamagedStreamError("its log has a hole before the moment");
  for (const { name, through } of chain) {
    if (enough && through > enough) break;
    yield encodeFile(name, await readSegment(platform, archive, name, signal));
  }
  yield encodeFrame("end");
}
