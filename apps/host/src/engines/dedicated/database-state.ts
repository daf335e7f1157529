import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { BoxKey, DatabaseSpec } from "@platform/host-api";
import { z } from "zod";
import type { Volume } from "../../disks/index.ts";

const Account = z.object({ username: z.string(), password: z.string() });

/** What is known of one database, in its folder's `state.json` (0600: it holds passwords). */
export const DatabaseState = z.object({
  key: BoxKey,
  /** Name of its folder and control group: the key, unless the server was there before its key. */
  home: BoxKey,
  spec: DatabaseSpec,
  /** `creating` and `deleting` are removed by a restarted host, `spare` waits for a key; only `ready` was ever handed out. */
  phase: z.enum(["creating", "spare", "ready", "deleting"]),
  wanted: z.enum(["running", "stopped"]),
  version: z.string().describe("Exact server version"),
  /** Owner of its processes and files; `null`: the user of the host daemon. */
  uid: z.int().nullable(),
  port: z.int(),
  /** Opaque: a server's catalog shows names to everyone who may log in. */
  database: z.string(),
  /** First account and for ever the owner of what the tenant makes, whichever account makes it. */
  owner: z.string(),
  /** The account that is handed out. */
  username: z.string(),
  password: z.string(),
  /** Written down before a rotation starts: after a crash in the middle the account may or may not exist. */
  pendingAccount: Account.nullable().default(null),
  /** Accounts that were handed out before and still log in, until the rotation is ended. */
  oldAccounts: z.array(Account).default([]),
  /** Accounts beside the main one, by name. */
  users: z.array(Account.extend({ name: z.string(), access: z.enum(["owner", "read"]) })).default([]),
  /** The platform's own account. */
  superuserPassword: z.string(),
  /** Whether its files lie on disks of limited size. */
  hasDisk: z.boolean().default(false),
  /** Ports of the pooler: the one that is handed out, the one that previews are led to, and its own behind both. */
  pool: z.object({ port: z.int(), previewsPort: z.int(), innerPort: z.int() }).nullable().default(null),
  /** Its accounts may not write, because the database is larger than it may be. */
  restricted: z.boolean().default(false),
  /** Nobody but the platform is let in: its content is being carried to another version. */
  closed: z.boolean().default(false),
  /** Key of the database that another server serves since an upgrade. */
  standsBy: BoxKey.nullable().default(null),
  /** The server, by its home, that this one has just taken the place of; `port` becomes its own. */
  replaces: z
    .object({ home: z.string(), port: z.int(), then: z.enum(["keep", "remove"]) })
    .nullable()
    .default(null),
});
export type DatabaseState = z.output<typeof DatabaseState>;

export interface DatabaseFolders {
  readonly root: string;
  /** The data folder of the server, on the limited disk where there is one. */
  readonly data: string;
  /** For what the server must write even when its disk is full. */
  readonly journal: string;
  readonly disk: Volume;
  /** Takes up room until a server could not start without it. */
  readonly ballast: string;
  readonly journalDisk: Volume;
  readonly logFile: string;
  readonly stateFile: string;
}

/** @param home name of the folder; a key does as well, as there is a link by that name */
export function foldersOf(databases: string, home: string, hasDisk: boolean): DatabaseFolders {
  const root = join(databases, BoxKey.parse(home));
  const volume = (name: string): Volume => ({ image: join(root, `${name}.img`), mount: join(root, name) });
  return {
    root,
    data: hasDisk ? join(root, "disk", "data") : join(root, "cluster"),
    journal: join(root, "journal", "log"),
    disk: volume("disk"),
    ballast: join(root, "disk", "ballast"),
    journalDisk: volume("journal"),
    logFile: join(root, "server.log"),
    stateFile: join(root, "state.json"),
  };
}

/** @returns `null` if there is no state: its folder was made, but nothing in it yet */
export function readState(databases: string, home: string): DatabaseState | null {
  let text: string;
  try {
    text = readFileSync(foldersOf(databases, home, false).stateFile, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  const stored = JSON.parse(text) as Record<string, unknown>;
  // Databases of earlier releases have one account, which owns everything.
  return DatabaseState.parse({ owner: stored["username"], home, ...stored });
}

export function writeState(folders: DatabaseFolders, state: DatabaseState): void {
  const temporary = `${folders.stateFile}.new`;
  writeFileSync(temporary, JSON.stringify(state), { mode: 0o600, flush: true });
  renameSync(temporary, folders.stateFile);
  const folder = openSync(dirname(folders.stateFile), "r");
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}
