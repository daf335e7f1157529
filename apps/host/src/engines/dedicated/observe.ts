import type { DatabaseStats, LoginProof } from "@platform/host-api";
import { isAlive } from "@platform/postgres";
import { failureOf, loginOf, type Entry } from "./entry.ts";
import type { Dial } from "./login.ts";
import { connectionsTo, diskUsage, memoryOf, processTree } from "./measure.ts";
import type { Pooling } from "./pooling.ts";
import { memoryDetail, type Acting } from "./server.ts";

/** What a login alone does not show: a full disk lets in, and a server that the kernel ended only seems away. */
async function judge(entry: Entry, { limits, kind }: Acting, proof: LoginProof): Promise<LoginProof> {
  if (proof.ok || proof.reason === "read_only") {
    if (!limits.disk(entry, kind)?.isFull) return proof;
    const detail =
      "The database has used up its storage: reads work, writes do not. Delete data or enlarge it.";
    return { ...proof, ok: false, reason: "disk_full", detail };
  }
  const most = kind.silentAt?.(entry.state);
  if (most !== undefined && proof.reason === "unreachable" && connectionsTo(entry.state.port) >= most) {
    const detail = `All ${most} connections are taken. Close some, or make the database larger.`;
    return { ...proof, reason: "too_many_connections", detail };
  }
  const oomKills = await limits.oomKills(entry.state.home);
  if (oomKills <= entry.oomKills) return proof;
  return { ...proof, reason: "out_of_memory", detail: memoryDetail };
}

const unknown = { connections: null, uptimeSec: null, cacheHitRatio: null, slowQueries: null };

export async function statsOf(entry: Entry, { limits, kind, authority }: Acting): Promise<DatabaseStats> {
  const disk = limits.disk(entry, kind);
  const storage = {
    storageBytes: disk?.usedBytes ?? diskUsage(entry.folders.root),
    storageLimitBytes: disk?.limitBytes ?? null,
  };
  const { server } = entry;
  if (!server || !isAlive(server)) {
    return { ...storage, memoryBytes: null, ...unknown };
  }
  const memoryBytes = memoryOf(processTree(server.pid));
  // Disk and memory are known also of a server that lets nobody in.
  const counted = await kind.insights(entry, authority).catch(() => undefined);
  return { ...storage, memoryBytes, ...(counted ?? unknown) };
}

const upgrading = { reason: "upgrading", detail: "Its content is being carried to a newer version." };

/** Logs in as clients do, straight and through the pooler, and notes what that says. */
export async function look(
  entry: Entry,
  acting: Acting,
  pooling: Pooling | null,
  dial?: Dial,
): Promise<LoginProof> {
  const login = loginOf(entry, acting.authority);
  const [made] = await Promise.all([
    acting.kind.prove(dial ? { ...login, dial } : login),
    pooling?.prove(entry, acting),
  ]);
  const seen = await judge(entry, acting, made);
  const proof = entry.state.closed && !seen.ok ? { ...seen, ...upgrading } : seen;
  entry.proof = proof;
  entry.failure = proof.ok ? null : failureOf(proof);
  return proof;
}
