import { existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { escapeIdentifier, escapeLiteral, type Client } from "pg";
import { decodeFile, type Frame } from "@platform/host-api";
import { chownTree } from "@platform/postgres";
import { feed, fileFrame, framesOf, type BackupMethod } from "../dedicated/backup.ts";
import type { Entry } from "../dedicated/entry.ts";
import { superuserLogin, withLogin } from "./login.ts";
import { addRole } from "./roles.ts";

/** A backup that takes longer than this is given up, milliseconds. */
const timeoutMs = 6 * 60 * 60_000;
const segmentBytes = 16n * 1024n * 1024n;

/** What a copy makes anew, or must not have. */
const leftOut = [
  "./pg_wal",
  "./pg_logical",
  "./postmaster.pid",
  "./postmaster.opts",
  "./server.crt",
  "./server.key",
  "./pg_replslot/*",
  "./pg_dynshmem/*",
  "./pg_notify/*",
  "./pg_serial/*",
  "./pg_snapshots/*",
  "./pg_stat_tmp/*",
  "./pg_subtrans/*",
  "./base/pgsql_tmp*",
];

export const archivedLog = ({ folders }: Entry) => join(folders.root, "restored-log");

interface Started {
  readonly client: Client;
  readonly startLsn: string;
}

/** Log positions are two hexadecimal numbers of 32 bits. */
function segmentsBetween(timeline: number, from: string, to: string): string[] {
  const position = (lsn: string) => {
    const [high, low] = lsn.split("/").map((part) => BigInt(`0x${part}`));
    return (high! << 32n) | low!;
  };
  const names: string[] = [];
  const hex = (value: bigint | number) => value.toString(16).toUpperCase().padStart(8, "0");
  for (let segment = position(from) / segmentBytes; segment * segmentBytes < position(to); segment++) {
    const number = segment * segmentBytes;
    names.push(`${hex(timeline)}${hex(number >> 32n)}${hex((number & 0xffffffffn) / segmentBytes)}`);
  }
  return names;
}

/**
 * A base backup by the server's own functions, with the log that makes it consistent. The session that
 * started it holds the log back until the end, within bounds: a slot that falls behind them is given up, and
 * the backup with it, before the server runs out of room.
 */
async function* read(entry: Entry, certificate: string, signal: AbortSignal): AsyncGenerator<Buffer> {
  const ready = Promise.withResolvers<Started>();
  const done = Promise.withResolvers<void>();
  const session = withLogin(
    superuserLogin(entry.state, certificate),
    async (client) => {
      await client.query(
        "select pg_create_physical_replication_slot('backup_' || pg_backend_pid(), true, true)",
      );
      const { rows } = await client.query<{ lsn: string }>("select pg_backup_start('backup', true) as lsn");
      ready.resolve({ client, startLsn: rows[0]!.lsn });
      await done.promise;
    },
    timeoutMs,
  );
  session.catch((error: unknown) => ready.reject(error as Error));
  const { client, startLsn } = await ready.promise;
  try {
    const excluded = leftOut.flatMap((name) => ["--exclude", name]);
    const args = [
      "-c",
      "-C",
      entry.folders.data,
      "--anchored",
      "--warning=no-file-changed",
      ...excluded,
      "-f",
      "-",
      ".",
    ];
    // Files change and go while they are read; the log sets that right. tar then ends with 1.
    yield* framesOf("tar", args, signal, {}, [0, 1]);
    const { rows } = await client.query<{ lsn: string; labelfile: string; timeline: number }>(
      `select b.lsn, b.labelfile, (select timeline_id from pg_control_checkpoint()) as timeline
       from pg_backup_stop(false) b`,
    );
    const stopped = rows[0]!;
    await client.query("select pg_switch_wal()");
    yield fileFrame("backup_label", Buffer.from(stopped.labelfile));
    for (const name of segmentsBetween(stopped.timeline, startLsn, stopped.lsn))
      yield fileFrame(name, await readFile(join(entry.folders.data, "pg_wal", name)));
  } finally {
    done.resolve();
    await session.catch(() => undefined); // What matters of it was thrown above.
  }
}

async function unpack(entry: Entry, frames: AsyncIterable<Frame>, targetTime: string | null): Promise<void> {
  const { folders, state } = entry;
  mkdirSync(folders.data, { mode: 0o700 });
  const log = archivedLog(entry);
  mkdirSync(log, { recursive: true, mode: 0o700 });
  await feed("tar", ["-x", "-C", folders.data, "-f", "-"], frames, async (frame) => {
    if (frame.type !== "file") return;
    const { name, content } = decodeFile(frame.content);
    await writeFile(name === "backup_label" ? join(folders.data, name) : join(log, name), content, {
      mode: 0o600,
    });
  });
  if (!existsSync(join(folders.data, "backup_label")) || !existsSync(join(folders.data, "PG_VERSION")))
    throw new Error("the backup does not hold a whole database");
  if (state.hasDisk) {
    mkdirSync(folders.journal, { recursive: true, mode: 0o700 });
    symlinkSync(folders.journal, join(folders.data, "pg_wal"));
  } else mkdirSync(join(folders.data, "pg_wal"), { mode: 0o700 });
  for (const name of ["snapshots", "mappings"])
    mkdirSync(join(folders.data, "pg_logical", name), { recursive: true, mode: 0o700 });
  writeRecovery(entry, targetTime);
  writeFileSync(join(folders.data, "recovery.signal"), "", { mode: 0o600 });
  if (state.uid !== null) await chownTree(log, state.uid);
}

/** A setting is read before names of time zones are known, and Z is one. */
const inServerWords = (time: string) => new Date(time).toISOString().replace("Z", "+00");

function writeRecovery(entry: Entry, targetTime: string | null): void {
  const settings = [
    `restore_command = 'cp "${archivedLog(entry)}/%f" "%p"'`,
    "recovery_target_action = 'promote'",
    ...(targetTime === null ? [] : [`recovery_target_time = '${inServerWords(targetTime)}'`]),
  ];
  const file = join(entry.folders.data, "postgresql.auto.conf");
  writeFileSync(file, settings.map((line) => `${line}\n`).join(""), { mode: 0o600 });
}

/** The newest change that came from the log; promoted servers still know it. */
async function assertNothingLater(client: Client, targetTime: string): Promise<void> {
  const { rows } = await client.query<{ later: boolean | null }>(
    "select pg_last_xact_replay_timestamp() > $1 as later",
    [targetTime],
  );
  if (rows[0]?.later === true) throw new Error("the copy went beyond the moment that was asked for");
}

export const backup: BackupMethod = {
  read: (entry, { certificate }, signal) => read(entry, certificate, signal),
  unpack: async (entry, _manifest, frames, authority, targetTime) => {
    await unpack(entry, frames, targetTime);
    const { certificate, key } = await authority.issue(["127.0.0.1", "localhost", entry.state.spec.hostname]);
    writeFileSync(join(entry.folders.data, "server.crt"), certificate, { mode: 0o600 });
    writeFileSync(join(entry.folders.data, "server.key"), key, { mode: 0o600 });
  },
  untilTheEnd: async (entry, cause) => {
    // Only a server that ended by itself is asked again; one that lets nobody in would not get better.
    if (entry.server !== null) throw cause;
    writeRecovery(entry, null);
  },
  adopt: async (entry, manifest, { certificate }, targetTime = null) => {
    const { state, folders } = entry;
    const login = { ...superuserLogin(state, certificate), password: manifest.superuserPassword };
    await withLogin(login, async (client) => {
      if (targetTime !== null) await assertNothingLater(client, targetTime);
      for (const account of manifest.accounts) {
        const { rowCount } = await client.query("select 1 from pg_roles where rolname = $1", [account]);
        if (rowCount === 1)
          await client.query(`alter role ${escapeIdentifier(account)} nologin password null`);
      }
      await client.query(`alter role postgres password ${escapeLiteral(state.superuserPassword)}`);
    });
    await addRole(state, certificate, state, "owner");
    // What led the recovery is for this once.
    writeFileSync(join(folders.data, "postgresql.auto.conf"), "");
    rmSync(archivedLog(entry), { recursive: true, force: true });
  },
};
