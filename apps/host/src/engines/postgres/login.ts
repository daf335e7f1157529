import { lookup } from "node:dns/promises";
import { isIP, Socket } from "node:net";
import { Client, DatabaseError } from "pg";
import type { LoginProof } from "@platform/host-api";
import { loginOptions } from "@platform/postgres";
import type { DatabaseState } from "./database-state.ts";

export interface Login {
  hostname: string;
  port: number;
  username: string;
  password: string;
  database: string;
  /** PEM; the server's certificate is verified against it, by name. */
  caCertificate: string;
}

class LoginTimeoutError extends Error {}

/**
 * Runs `work` on a connection made over TCP and TLS and ends it. The whole takes at most `timeoutMs`
 * milliseconds: a server that accepts and then says nothing ends in a timeout too.
 */
export async function withLogin<T>(
  login: Login,
  work: (client: Client) => Promise<T>,
  timeoutMs = 15_000,
): Promise<T> {
  const socket = new Socket();
  const host = await dialAddress(login.hostname);
  const client = new Client({
    ...loginOptions({
      host,
      port: login.port,
      user: login.username,
      password: login.password,
      database: login.database,
      applicationName: "probe",
      ssl: { ca: login.caCertificate, ...(isIP(login.hostname) ? {} : { servername: login.hostname }) },
      connectTimeoutMs: timeoutMs * 2,
    }),
    stream: () => socket,
  });
  client.on("error", () => {
    // The failure reaches the awaited call as well.
  });
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new LoginTimeoutError(`no answer within ${timeoutMs} ms`));
      socket.destroy();
    }, timeoutMs);
  });
  const session = async () => {
    await client.connect();
    const value = await work(client);
    await client.end();
    return value;
  };
  try {
    return await Promise.race([session(), timeout]);
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

/** Servers listen on 127.0.0.1. A name that leads elsewhere, or nowhere, is still the one verified. */
async function dialAddress(hostname: string): Promise<string> {
  try {
    const addresses = await lookup(hostname, { all: true });
    return addresses.some(({ address }) => address === "127.0.0.1") ? hostname : "127.0.0.1";
  } catch {
    return "127.0.0.1";
  }
}

/** Logs in with the credentials as handed out and says what happened; never throws. */
export async function prove(
  login: Login,
  work: (client: Client) => Promise<void> = async () => undefined,
): Promise<LoginProof> {
  const startedAt = performance.now();
  const proof = { at: new Date().toISOString(), serverVersion: null, tls: null };
  try {
    const seen = await withLogin(login, async (client) => {
      const { rows } = await client.query<{ version: string; tls: string | null }>(
        `select current_setting('server_version') as version, s.version as tls
         from pg_stat_ssl s where s.pid = pg_backend_pid()`,
      );
      await work(client);
      return rows[0];
    });
    const latencyMs = performance.now() - startedAt;
    if (!seen?.tls) {
      const detail = "The session is not encrypted.";
      return { ...proof, ok: false, reason: "tls_failed", detail, latencyMs };
    }
    return {
      ...proof,
      ok: true,
      reason: null,
      detail: null,
      latencyMs,
      serverVersion: seen.version,
      tls: seen.tls,
    };
  } catch (error) {
    return { ...proof, ok: false, ...classify(error), latencyMs: performance.now() - startedAt };
  }
}

/** At creation a login is not enough: the role must be able to work in its database. */
export async function createAndDropTable(client: Client): Promise<void> {
  await client.query("create table login_proof (id int)");
  await client.query("insert into login_proof values (1)");
  await client.query("drop table login_proof");
}

const reasonOfState: Readonly<Record<string, string>> = {
  "28P01": "auth_failed",
  "28000": "auth_failed",
  "57P03": "starting",
  "53300": "too_many_connections",
  "53100": "disk_full",
};

const unreachableCodes = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EPIPE",
]);

/** By SQLSTATE or errno, never by message text. */
export function classify(error: unknown): { reason: string; detail: string } {
  if (error instanceof DatabaseError) {
    const reason = reasonOfState[error.code ?? ""] ?? "query_failed";
    return { reason, detail: `${error.message} (SQLSTATE ${error.code})` };
  }
  const { code, message } = error as NodeJS.ErrnoException;
  if (error instanceof LoginTimeoutError || code === "ETIMEDOUT")
    return { reason: "timeout", detail: message };
  if (code === undefined) return { reason: "unreachable", detail: message };
  if (unreachableCodes.has(code)) return { reason: "unreachable", detail: code };
  // What remains of Node's codes on this path comes from the handshake: CERT_…, ERR_TLS_…, ERR_SSL_…, SELF_SIGNED_….
  return { reason: "tls_failed", detail: code };
}

export function tenantLogin(state: DatabaseState, caCertificate: string, password = state.password): Login {
  const { port, username, database } = state;
  return { hostname: state.spec.hostname, port, username, password, database, caCertificate };
}

export function superuserLogin(state: DatabaseState, caCertificate: string, database = "postgres"): Login {
  const { port, superuserPassword: password } = state;
  return { hostname: state.spec.hostname, port, username: "postgres", password, database, caCertificate };
}
