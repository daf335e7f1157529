import { createHash } from "node:crypto";
import { posix } from "node:path";
import { PlatformError } from "@platform/contract";
import type { GuestClient } from "@platform/guest-protocol";
import { query, transaction, type Queryable } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import { readOptional } from "./files.ts";
import type { BuildLog, BuildRow } from "./store.ts";

const mostFiles = 500;
/** Of one file, KiB. */
const mostKib = 1024;

export interface RecordedMigration {
  readonly name: string;
  readonly sha256: string;
  readonly sql: string;
}

const refuse = (path: string, message: string, evidence: string[]) =>
  new PlatformError("SOURCE_FILE_MISSING", message, {
    details: { step: "prepare", pointer: "/migrations_path", missing_file: path, evidence },
    errors: { migrations_path: ["holds no migrations"] },
  });

/**
 * Keeps the files of the frozen source that a promote of this release runs, in the order of their names: what is
 * in one folder, or in one below it each (as Prisma writes them).
 *
 * @throws PlatformError SOURCE_FILE_MISSING
 */
export async function recordMigrations(
  platform: Platform,
  row: BuildRow,
  guest: GuestClient,
  root: string,
  log: BuildLog,
): Promise<void> {
  const wanted = row.request.migrations_path;
  if (!wanted) return;
  const folder = posix.normalize(posix.join(root, wanted));
  if (folder !== root && !folder.startsWith(`${root}/`))
    throw refuse(wanted, `${wanted} leads out of the app's folder. Name a folder within it.`, [folder]);
  const quoted = `'${folder.replaceAll("'", "'\\''")}'`;
  const listed = await guest.exec(
    `cd -- ${quoted} && find . -maxdepth 2 -type f -name '*.sql' -size -${mostKib}k -printf '%P\\n' | LC_ALL=C sort | head -${mostFiles + 1}`,
    { cwd: root, timeoutMs: 60_000 },
  );
  const names = listed.stdout.split("\n").filter((name) => name !== "");
  if (names.length === 0)
    throw refuse(wanted, `${wanted} holds no .sql files below ${mostKib} KiB, or is not in the source.`, [
      listed.stderr.trim() || "no file was found",
    ]);
  if (names.length > mostFiles)
    throw refuse(wanted, `${wanted} holds more than ${mostFiles} files. Join the oldest ones.`, []);
  const files: RecordedMigration[] = [];
  for (const name of names) {
    const sql = (await readOptional(guest, `${folder}/${name}`)) ?? "";
    files.push({ name, sql, sha256: createHash("sha256").update(sql).digest("hex") });
  }
  await transaction(platform.pool, async (db) => {
    await db.query("delete from release_migrations where release_id = $1", [row.release_id]);
    for (const [index, { name, sha256, sql }] of files.entries())
      await db.query(
        "insert into release_migrations (release_id, ordinal, name, sha256, sql) values ($1, $2, $3, $4, $5)",
        [row.release_id, index, name, sha256, sql],
      );
    // By these names a rollback knows which ones the release to return to does not know.
    await db.query("update releases set metadata = metadata || $2::jsonb where id = $1", [
      row.release_id,
      {
        migrations: names,
        migration_digests: Object.fromEntries(files.map((file) => [file.name, file.sha256])),
      },
    ]);
  });
  log.add("system", `recorded ${names.length} migrations of ${wanted}, the last one ${names.at(-1)}`);
}

export const migrationsOf = (db: Queryable, releaseId: string) =>
  query<RecordedMigration>(
    db,
    "select name, sha256, sql from release_migrations where release_id = $1 order by ordinal",
    [releaseId],
  );
