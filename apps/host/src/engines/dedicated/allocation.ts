import { createHash, randomBytes, randomInt } from "node:crypto";
import { statfsSync } from "node:fs";
import { HostError } from "@platform/host-api";
import { isPortFree } from "@platform/postgres";
import type { DatabaseState } from "./database-state.ts";
import type { ServerKind } from "./kind.ts";
import { processesOfUser } from "./measure.ts";
import { newAccount } from "./users.ts";

/** Below the range that the system gives to outgoing connections, so that a stopped server's port stays free. */
const ports = { first: 20_000, last: 29_999 };
const uids = { first: 300_000, last: 365_535 };
/** A template and a copy of it, each with its first log segments. */
const spaceForClusterBytes = 256 * 1024 * 1024;

/**
 * A uid that no database of this engine has and nothing runs as. Removing a database kills whatever
 * runs as its uid, so two engines of one machine must not choose alike, also while neither has a
 * server yet: each starts at a place of its own.
 *
 * @param home the engine's data folder
 * @throws HostError `ENGINE_UNAVAILABLE` when all are taken
 */
export function freeUid(others: readonly DatabaseState[], home: string): number {
  const taken = new Set(others.map(({ uid }) => uid));
  const count = uids.last - uids.first + 1;
  const offset = createHash("sha256").update(home).digest().readUInt32BE(0) % count;
  for (let tried = 0; tried < count; tried++) {
    const uid = uids.first + ((offset + tried) % count);
    if (!taken.has(uid) && processesOfUser(uid).length === 0) return uid;
  }
  throw new HostError(
    "ENGINE_UNAVAILABLE",
    503,
    "Every database uid of this host is taken. Use another host.",
  );
}

/** A port that no database has, running or stopped, and nobody listens on at this moment. */
export async function freePort(others: readonly DatabaseState[]): Promise<number> {
  const taken = new Set(others.flatMap(({ port, pool }) => [port, ...(pool ? Object.values(pool) : [])]));
  for (let attempt = 0; attempt < 200; attempt++) {
    const port = randomInt(ports.first, ports.last + 1);
    if (!taken.has(port) && (await isPortFree(port))) return port;
  }
  throw new HostError("ENGINE_UNAVAILABLE", 503, "No database port of this host is free. Use another host.");
}

/** @throws HostError `DISK_FULL` when a new database would not fit */
export function assertRoom(folder: string): void {
  const { bavail, bsize } = statfsSync(folder);
  const freeMib = Math.floor((bavail * bsize) / 1024 / 1024);
  if (freeMib * 1024 * 1024 >= spaceForClusterBytes) return;
  throw new HostError(
    "DISK_FULL",
    507,
    `${folder} has ${freeMib} MiB left, too little for a database. Free some, then retry.`,
    { reason: "disk_full" },
  );
}

/** @throws HostError `INVALID` below what a server of the kind starts with */
export function assertSize(kind: ServerKind, { memoryBytes }: { memoryBytes: number }): void {
  const least = kind.leastMemoryBytes;
  if (memoryBytes >= least) return;
  const mib = (bytes: number) => Math.round(bytes / 1024 / 1024);
  throw new HostError(
    "INVALID",
    422,
    `${mib(memoryBytes)} MiB are too little for ${kind.engine}: give it ${mib(least)} or more.`,
    { reason: "memory_too_small" },
  );
}

/** @param from.uidsOf the engine's data folder if its servers get uids of their own */
export async function newState(
  others: readonly DatabaseState[],
  from: Pick<DatabaseState, "key" | "spec" | "version" | "hasDisk" | "database"> & { uidsOf: string | null },
): Promise<DatabaseState> {
  const { uidsOf, ...known } = from;
  const { username, password } = newAccount();
  return {
    ...known,
    home: known.key,
    ...{ username, password, owner: username },
    phase: "creating",
    wanted: "running",
    uid: uidsOf === null ? null : freeUid(others, uidsOf),
    port: await freePort(others),
    pendingAccount: null,
    oldAccounts: [],
    users: [],
    superuserPassword: randomBytes(24).toString("base64url"),
    pool: null,
    restricted: false,
    closed: false,
    standsBy: null,
    replaces: null,
  };
}
