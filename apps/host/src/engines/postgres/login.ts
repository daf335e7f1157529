import { isIP, Socket } from "node:net";
import { Client, DatabaseError } from "pg";
import type { LoginProof } from "@platform/host-api";
import { loginOptions } from "@platform/postgres";
import type { DatabaseState } from "../dedicated/database-state.ts";
import { connectionFailure, within } from "../dedicated/connection.ts";
import type { Login } from "../dedicated/login.ts";

interface Seen {
  readonly version: string;
  readonly tls: string | null;
  readonly isReadOnly: boolean;
}

/**
 * Runs `work` on a connection made over TCP and TLS and ends it. The whole takes at most `timeoutMs`
 * milliseconds: a server that accepts and then says nothing ends in a timeout too.
 */
export async function withLogin<T>(
  login: Login,
  work: (client: Client) => Promise<T>,
  timeoutMs = 15_000,
): Promise<T> {
  const socket = login.dial ? await dialled(login) : new Socket();
  const client = new Client({
    ...loginOptions({
      // Where servers listen and boxes are led to. The name is verified, not looked up: it need not
      // resolve on this machine, and a slow resolver must not look like a slow database.
      host: "127.0.0.1",
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
  const session = async () => {
    await client.connect();
    const value = await work(client);
    await client.end();
    return value;
  };
  return within(timeoutMs, session, () => socket.destroy());
}

/** node-postgres calls `connect` on what it is given; this connection is there already. */
async function dialled({ dial, hostname, port }: Login): Promise<Socket> {
  const socket = await dial!(hostname, port);
  socket.connect = () => {
    queueMicrotask(() => socket.emit("connect"));
    return socket;
  };
  return socket;
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
      // Of its session a role sees everything only by its own name, not by the owner's that it works under.
      await client.query("set role none");
      const { rows } = await client.query<Seen>(
        `select current_setting('server_version') as version, s.version as tls,
                pg_is_in_recovery() or current_setting('default_transaction_read_only') = 'on' as "isReadOnly"
         from pg_stat_ssl s where s.pid = pg_backend_pid()`,
      );
      await client.query("reset role");
      await work(client);
      return rows[0];
    });
    const latencyMs = performance.now() - startedAt;
    if (!seen?.tls) {
      const detail = "The session is not encrypted.";
      return { ...proof, ok: false, reason: "tls_failed", detail, latencyMs };
    }
    if (seen.isReadOnly) {
      const detail = "Sessions are read-only: default_transaction_read_only is on, or the server recovers.";
      return { ...proof, ok: false, reason: "read_only", detail, latencyMs };
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
  "53200": "out_of_memory",
  "25006": "read_only",
};

/** By SQLSTATE or errno, never by message text. */
export function classify(error: unknown): { reason: string; detail: string } {
  if (error instanceof DatabaseError) {
    const reason = reasonOfState[error.code ?? ""] ?? "query_failed";
    return { reason, detail: `${error.message} (SQLSTATE ${error.code})` };
  }
  return connectionFailure(error);
}

export function superuserLogin(state: DatabaseState, caCertificate: string, database = "postgres"): Login {
  const { port, superuserPassword: password } = state;
  return { hostname: state.spec.hostname, port, username: "postgres", password, database, caCertificate };
}
