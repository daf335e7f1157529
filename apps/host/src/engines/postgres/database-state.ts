import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { BoxKey, DatabaseSpec } from "@platform/host-api";
import { z } from "zod";

/** What is known of one database, in its folder's `state.json` (0600: it holds passwords). */
export const DatabaseState = z.object({
  key: BoxKey,
  spec: DatabaseSpec,
  /** `creating` and `deleting` are removed by a restarted host; only `ready` was ever handed out. */
  phase: z.enum(["creating", "ready", "deleting"]),
  wanted: z.enum(["running", "stopped"]),
  version: z.string().describe("Exact server version"),
  /** Owner of its processes and files; `null`: the user of the host daemon. */
  uid: z.int().nullable(),
  port: z.int(),
  /** Opaque: a server's catalog shows names to everyone who may log in. */
  database: z.string(),
  username: z.string(),
  password: z.string(),
  /** Set before a rotation starts: after a crash in the middle it is not known which one holds. */
  pendingPassword: z.string().nullable(),
  superuserPassword: z.string(),
});
export type DatabaseState = z.output<typeof DatabaseState>;

export interface DatabaseFolders {
  root: string;
  cluster: string;
  logFile: string;
  stateFile: string;
}

export function foldersOf(databases: string, key: string): DatabaseFolders {
  const root = join(databases, BoxKey.parse(key));
  return {
    root,
    cluster: join(root, "cluster"),
    logFile: join(root, "server.log"),
    stateFile: join(root, "state.json"),
  };
}

/** @returns `null` if there is no state: its folder was made, but nothing in it yet */
export function readState(folders: DatabaseFolders): DatabaseState | null {
  let text: string;
  try {
    text = readFileSync(folders.stateFile, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  return DatabaseState.parse(JSON.parse(text));
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
