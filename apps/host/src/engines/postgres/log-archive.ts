import { chownSync, mkdirSync } from "node:fs";
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { waitFor } from "@platform/daemon";
import { HostError } from "@platform/host-api";
import type { DatabaseFolders } from "../dedicated/database-state.ts";
import type { LogArchive } from "../dedicated/kind.ts";
import { superuserLogin, withLogin } from "./login.ts";

/** Segments of 16 MiB that wait for their store; beyond it the log goes on without them, and a gap is noted. */
const mostSegments = 40;
const archiverTimeoutMs = 10_000;
const isSegment = (name: string) => /^[0-9A-F]{24}$/.test(name);

const spoolOf = (folders: DatabaseFolders) => join(folders.root, "log-spool");
const gapFile = "gap";

/**
 * How each server gives away its finished segments, always set, as changing it needs a restart: without the
 * spool folder they are not kept. A segment appears under its name only once it is on disk. A store that is
 * away for long must not end the server by a full disk: then there is a gap, which is no secret.
 */
export function archiveSettings(folders: DatabaseFolders): Record<string, string | number> {
  const spool = `'${spoolOf(folders).replaceAll("'", "'\\''").replaceAll("%", "%%")}'`;
  const keep = `cp %p ${spool}/%f.new && sync ${spool}/%f.new && mv -f ${spool}/%f.new ${spool}/%f && sync ${spool}`;
  const isFull = `[ "$(ls ${spool} | wc -l)" -ge ${mostSegments} ]`;
  return {
    archive_mode: "on",
    archive_command: `if [ -d ${spool} ]; then if ${isFull}; then : > ${spool}/${gapFile}; else ${keep}; fi; fi`,
    // Seconds; half of what may be lost with the machine, the other half is for storing it.
    archive_timeout: 30,
  };
}

export const logArchive: LogArchive = {
  take: async (entry, { certificate }) => {
    const spool = spoolOf(entry.folders);
    const { uid } = entry.state;
    mkdirSync(spool, { recursive: true, mode: 0o700 });
    if (uid !== null) chownSync(spool, uid, uid);
    const { through, current } = await withLogin(
      superuserLogin(entry.state, certificate),
      async (client) => {
        const asked = await client.query<{ now: Date }>("select clock_timestamp() as now");
        await client.query("select pg_switch_wal()");
        await waitFor(
          "the server to give away its log",
          async () => {
            const { rows } = await client.query<{ count: number }>(
              "select count(*)::int as count from pg_ls_archive_statusdir() where name ~ '^[0-9A-F]{24}[.]ready$'",
            );
            return rows[0]?.count === 0;
          },
          archiverTimeoutMs,
        );
        const { rows } = await client.query<{ current: string }>(
          "select pg_walfile_name(pg_current_wal_insert_lsn() + 1) as current",
        );
        return { through: asked.rows[0]!.now.toISOString(), current: rows[0]!.current };
      },
      archiverTimeoutMs * 2,
    );
    const names = await readdir(spool);
    return {
      through,
      current,
      segments: names.filter(isSegment).sort(),
      hasGap: names.includes(gapFile),
    };
  },

  read: async ({ folders }, name) => {
    const unknown = new HostError("NOT_FOUND", 404, `There is no log segment ${name.slice(0, 64)} here.`);
    if (!isSegment(name)) throw unknown;
    try {
      return await readFile(join(spoolOf(folders), name));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") throw unknown;
      throw error;
    }
  },

  forget: async ({ folders }, names) => {
    const spool = spoolOf(folders);
    const known = await readdir(spool).catch(() => [] as string[]);
    // Histories of timelines and labels of backups come by the same way; nobody needs them.
    const needless = known.filter((name) => /^[0-9A-F]{8}(\.history|.*\.backup)$/.test(name));
    for (const name of [...names.filter((one) => isSegment(one) || one === gapFile), ...needless])
      await rm(join(spool, name), { force: true });
  },

  stop: ({ folders }) => rm(spoolOf(folders), { recursive: true, force: true }),
};
