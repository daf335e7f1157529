import { createConnection, type Connection, type RowDataPacket } from "mysql2/promise";
import type { LoginProof } from "@platform/host-api";
import { connectionFailure, openConnection, within } from "../dedicated/connection.ts";
import type { Authority } from "../dedicated/authority.ts";
import type { Entry } from "../dedicated/entry.ts";
import type { Login } from "../dedicated/login.ts";
import { administrator } from "./accounts.ts";

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
  work: (connection: Connection) => Promise<T>,
  timeoutMs = 15_000,
): Promise<T> {
  let close = () => {};
  const session = async () => {
    const stream = await openConnection(login);
    close = () => stream.destroy();
    const connection = await createConnection({
      stream,
      host: login.hostname,
      port: login.port,
      user: login.username,
      password: login.password,
      database: login.database,
      connectTimeout: timeoutMs,
      ssl: { ca: login.caCertificate, rejectUnauthorized: true, verifyIdentity: true },
    });
    connection.on("error", () => {
      // The failure reaches the awaited call as well.
    });
    const value = await work(connection);
    await connection.end();
    return value;
  };
  return within(timeoutMs, session, () => close());
}

export const rowsOf = async (connection: Connection, sql: string, values: unknown[] = []) =>
  (await connection.query<RowDataPacket[]>(sql, values))[0];

/** Logs in with the credentials as handed out and says what happened; never throws. */
export async function prove(login: Login, mustWrite = false): Promise<LoginProof> {
  const startedAt = performance.now();
  const proof = { at: new Date().toISOString(), serverVersion: null, tls: null };
  try {
    const seen = await withLogin(login, async (connection) => {
      const [row] = await rowsOf(connection, "select version() as version, @@global.read_only as isReadOnly");
      const [tls] = await rowsOf(connection, "show session status like 'Ssl_version'");
      if (mustWrite) {
        await connection.query("create table login_proof (id int)");
        await connection.query("insert into login_proof values (1)");
        await connection.query("drop table login_proof");
      }
      return {
        version: String(row?.["version"]),
        tls: String(tls?.["Value"] ?? ""),
        isReadOnly: row?.["isReadOnly"] === 1,
      };
    });
    const latencyMs = performance.now() - startedAt;
    if (!seen.tls) {
      const detail = "The session is not encrypted.";
      return { ...proof, ok: false, reason: "tls_failed", detail, latencyMs };
    }
    if (seen.isReadOnly) {
      const detail = "The server is read-only: @@global.read_only is on.";
      return { ...proof, ok: false, reason: "read_only", detail, latencyMs };
    }
    const serverVersion = seen.version.split("-")[0] ?? seen.version;
    return { ...proof, ok: true, reason: null, detail: null, latencyMs, serverVersion, tls: seen.tls };
  } catch (error) {
    return { ...proof, ok: false, ...classify(error), latencyMs: performance.now() - startedAt };
  }
}

/** @see https://mariadb.com/kb/en/mariadb-error-code-reference/ */
const reasonOfNumber: Readonly<Record<number, string>> = {
  1021: "disk_full",
  1040: "too_many_connections",
  1041: "out_of_memory",
  1044: "auth_failed",
  1045: "auth_failed",
  1053: "starting",
  1114: "disk_full",
  1129: "auth_failed",
  1203: "too_many_connections",
  1226: "too_many_connections",
  1290: "read_only",
  1698: "auth_failed",
  4151: "auth_failed",
};

/** By the server's number or errno, never by message text. */
export function classify(error: unknown): { reason: string; detail: string } {
  const { errno, sqlMessage } = error as { errno?: unknown; sqlMessage?: unknown };
  if (typeof errno === "number" && errno > 0 && typeof sqlMessage === "string")
    return { reason: reasonOfNumber[errno] ?? "query_failed", detail: `${sqlMessage} (error ${errno})` };
  return connectionFailure(error);
}
