import { createHash, randomInt } from "node:crypto";
import { statfsSync } from "node:fs";
import { HostError } from "@platform/host-api";
import { isPortFree } from "@platform/postgres";
import type { DatabaseState } from "./database-state.ts";
import { processesOfUser } from "./measure.ts";

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
  const taken = new Set(others.map(({ port }) => port));
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
