import { createHash } from "node:crypto";
import { readdirSync, readlinkSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Log } from "@platform/daemon";
import { isAlive } from "@platform/postgres";
import { openAuthority } from "./authority.ts";
import { foldersOf, readState } from "./database-state.ts";
import { newEntry, type Entry } from "./entry.ts";
import type { ServerKind } from "./kind.ts";
import { openServerLimits } from "./limits.ts";
import { finishSwaps } from "./upgrade.ts";
import { removeDatabase, type Acting } from "./server.ts";

/**
 * Opens authority and limits, reads what is on disk and removes what no state was completed for.
 *
 * @param found gets what is there
 * @param spares gets the servers that run and wait for a key, by their homes
 * @returns also what cannot be read, with why, by key: neither served nor touched, nor reported as absent
 */
export async function load(options: {
  kind: ServerKind;
  home: string;
  databases: string;
  authorityDir: string;
  runsAsRoot: boolean;
  log: Log;
  found: Map<string, Entry>;
  spares: Map<string, Entry>;
}): Promise<{ acting: Acting; damaged: Map<string, string> }> {
  const { kind, home, databases, runsAsRoot, log, found, spares } = options;
  const authority = await openAuthority(options.authorityDir);
  // The folder marks what is this engine's among the machine's control groups.
  const tag = createHash("sha256").update(home).digest("hex").slice(0, 12);
  const limits = await openServerLimits({ home, tag, runsAsRoot, log });
  const acting = { kind, authority, limits };
  const incomplete: string[] = [];
  const damaged = new Map<string, string>();
  const links: string[] = [];
  const ready: Entry[] = [];
  for (const dirent of readdirSync(databases, { withFileTypes: true })) {
    const key = dirent.name;
    if (dirent.isSymbolicLink()) {
      links.push(key);
      continue;
    }
    const state = stateOf(databases, key, damaged, log);
    if (state === "damaged") continue;
    if (!state) {
      incomplete.push(key);
      continue;
    }
    const entry = newEntry(state, foldersOf(databases, key, state.hasDisk));
    entry.server = kind.running(entry);
    entry.oomKills = await limits.oomKills(key);
    const runs = entry.server !== null && isAlive(entry.server);
    if (state.phase === "ready") ready.push(entry);
    else if (state.phase === "spare" && runs) spares.set(key, entry);
    else await removeDatabase(entry, acting);
  }
  finishSwaps(ready);
  for (const entry of ready) {
    if (entry.state.phase === "ready") found.set(entry.state.key, entry);
    else await removeDatabase(entry, acting);
  }
  const homes = [...found.values(), ...spares.values()].map(({ state }) => state.home);
  await limits.sweep(new Set([...homes, ...damaged.keys()]));
  for (const key of links) {
    const target = readlinkSync(join(databases, key));
    const damage = damaged.get(target);
    if (damage !== undefined) damaged.set(key, damage);
    // Made just before a spare server was to get this key, which then did not happen.
    else if (found.get(key)?.state.home !== target) rmSync(join(databases, key));
  }
  for (const key of incomplete)
    rmSync(foldersOf(databases, key, false).root, { recursive: true, force: true });
  return { acting, damaged };
}

function stateOf(databases: string, key: string, damaged: Map<string, string>, log: Log) {
  try {
    return readState(databases, key);
  } catch (error) {
    log.error({ err: error, database: key }, "the state of a database cannot be read; it is left alone");
    const { stateFile } = foldersOf(databases, key, false);
    damaged.set(key, `${stateFile} cannot be read. Put it back from a backup.`);
    return "damaged";
  }
}
