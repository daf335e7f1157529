import { randomUUID } from "node:crypto";
import { TLSSocket } from "node:tls";
import { Redis } from "ioredis";
import type { LoginProof } from "@platform/host-api";
import { connectionFailure, openConnection, within } from "../dedicated/connection.ts";
import type { Authority } from "../dedicated/authority.ts";
import type { Entry } from "../dedicated/entry.ts";
import type { Login } from "../dedicated/login.ts";
import { administrator } from "./settings.ts";

export const administratorLogin = ({ state }: Entry, { certificate }: Authority): Login => ({
  hostname: state.spec.hostname,
  port: state.port,
  username: administrator,
  password: state.superuserPassword,
  database: state.database,
  caCertificate: certificate,
});

/** Runs `work` on a connection made over TCP and TLS and ends it; at most `timeoutMs` milliseconds in all. */
export async function withLogin<T>(
  login: Login,
  work: (client: Redis) => Promise<T>,
  timeoutMs = 15_000,
): Promise<T> {
  let close = () => {};
  const session = async () => {
    const socket = await openConnection(login);
    close = () => socket.destroy();
    let failure: Error | null = null;
    const client = new Redis({
      lazyConnect: true,
      username: login.username,
      password: login.password,
      tls: { socket, servername: login.hostname, host: login.hostname, ca: login.caCertificate },
      retryStrategy: null,
      reconnectOnError: null,
      maxRetriesPerRequest: 0,
      enableReadyCheck: false,
      disableClientInfo: true,
      connectTimeout: timeoutMs,
    });
    // The first says why; what the call itself rejects with is only that the connection is closed.
    client.on("error", (error: Error) => (failure ??= error));
    close = () => {
      client.disconnect();
      socket.destroy();
    };
    try {
      await client.connect();
      return await work(client);
    } catch (error) {
      throw failure ?? error;
    }
  };
  return within(timeoutMs, session, () => close());
}

/** One section of INFO as a map. */
export async function infoOf(client: Redis, section: string): Promise<Map<string, string>> {
  const text = await client.info(section);
  return new Map(
    text.split("\r\n").flatMap((line) => {
      const at = line.indexOf(":");
      return at > 0 ? [[line.slice(0, at), line.slice(at + 1)] as const] : [];
    }),
  );
}

/** Logs in with the credentials as handed out and says what happened; never throws. */
export async function prove(login: Login, mustWrite = false): Promise<LoginProof> {
  const startedAt = performance.now();
  const proof = { at: new Date().toISOString(), serverVersion: null, tls: null };
  try {
    const seen = await withLogin(login, async (client) => {
      const server = await infoOf(client, "server");
      const persistence = await infoOf(client, "persistence");
      const memory = await infoOf(client, "memory");
      if (mustWrite) {
        const key = `login_proof:${randomUUID()}`;
        await client.set(key, "1", "EX", 60);
        await client.del(key);
      }
      const { stream } = client as unknown as { stream: unknown };
      const tls = stream instanceof TLSSocket ? stream.getProtocol() : null;
      return { version: server.get("redis_version") ?? null, tls, ...troubleOf(persistence, memory) };
    });
    const latencyMs = performance.now() - startedAt;
    if (seen.reason) return { ...proof, ok: false, reason: seen.reason, detail: seen.detail, latencyMs };
    if (!seen.tls) {
      const detail = "The session is not encrypted.";
      return { ...proof, ok: false, reason: "tls_failed", detail, latencyMs };
    }
    const { version: serverVersion, tls } = seen;
    return { ...proof, ok: true, reason: null, detail: null, latencyMs, serverVersion, tls };
  } catch (error) {
    return { ...proof, ok: false, ...classify(error), latencyMs: performance.now() - startedAt };
  }
}

/** Why a server that lets in would still refuse to write. */
function troubleOf(
  persistence: Map<string, string>,
  memory: Map<string, string>,
): { reason: string | null; detail: string | null } {
  if (persistence.get("aof_last_write_status") === "err")
    return { reason: "disk_full", detail: "Its log cannot be written: reads work, writes do not." };
  const [used, limit] = ["used_memory", "maxmemory"].map((name) => Number(memory.get(name) ?? 0));
  if (limit! > 0 && used! > limit!)
    return { reason: "out_of_memory", detail: "maxmemory is used up: reads work, writes do not." };
  return { reason: null, detail: null };
}

/** The word in front of an error is the protocol's own code. */
const reasonOfCode: Readonly<Record<string, string>> = {
  WRONGPASS: "auth_failed",
  NOAUTH: "auth_failed",
  NOPERM: "auth_failed",
  LOADING: "starting",
  OOM: "out_of_memory",
  MISCONF: "disk_full",
  READONLY: "read_only",
  BUSY: "timeout",
};

export function classify(error: unknown): { reason: string; detail: string } {
  if (error instanceof Error && error.name === "ReplyError") {
    const code = error.message.split(" ")[0] ?? "";
    // Refused before any command, and the only error that the server sends without a code of its own.
    const isFull = error.message === "ERR max number of clients reached";
    return {
      reason: isFull ? "too_many_connections" : (reasonOfCode[code] ?? "query_failed"),
      detail: error.message,
    };
  }
  return connectionFailure(error);
}
