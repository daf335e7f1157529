import { readFileSync } from "node:fs";
import type { ConnectionOptions as TlsOptions } from "node:tls";
import type { ClientConfig } from "pg";

export interface LoginParts {
  host: string;
  port: number;
  user: string;
  password: string;
  database: string;
  /** `false`: plaintext. */
  ssl: TlsOptions | false;
  applicationName?: string;
  /** Longest time that connecting may take, in milliseconds. */
  connectTimeoutMs?: number;
  /** Longest time that the server works on one statement, in milliseconds; 0 or absent: no limit. */
  statementTimeoutMs?: number;
}

/**
 * Every option that node-postgres would otherwise take from `PG*` variables or `~/.pgpass`, so that
 * an inherited environment changes nothing. It ignores empty strings and falls back to the
 * environment, hence the blank `options`; a password in a function is the only one it never replaces.
 */
export function loginOptions(parts: LoginParts): ClientConfig {
  const options = {
    host: parts.host,
    port: parts.port,
    user: parts.user,
    password: () => parts.password,
    database: parts.database,
    ssl: parts.ssl,
    sslnegotiation: "postgres",
    options: " ",
    client_encoding: "UTF8",
    replication: "false",
    application_name: parts.applicationName ?? "platform",
    connectionTimeoutMillis: parts.connectTimeoutMs ?? 10_000,
    statement_timeout: parts.statementTimeoutMs ?? 0,
    keepAlive: true,
  };
  return options as ClientConfig;
}

/**
 * @param url `postgres://` or `postgresql://` with user and database; `sslmode` and `sslrootcert` as in libpq
 * @throws Error naming the missing part; the URL itself is never in the message
 */
export function parsePostgresUrl(url: string): LoginParts {
  if (!URL.canParse(url))
    throw new Error("The Postgres URL is malformed: expected postgresql://user:password@host:port/database.");
  const parsed = new URL(url);
  if (!/^postgres(ql)?:$/.test(parsed.protocol))
    throw new Error(`The Postgres URL has the scheme ${parsed.protocol} where postgresql: is expected.`);
  const user = decodeURIComponent(parsed.username);
  const database = decodeURIComponent(parsed.pathname.slice(1));
  if (!user || !database || !parsed.hostname)
    throw new Error("The Postgres URL needs a user, a host and a database name.");
  return {
    host: parsed.hostname.replace(/^\[(.*)\]$/, "$1"),
    port: parsed.port ? Number(parsed.port) : 5432,
    user,
    password: decodeURIComponent(parsed.password),
    database,
    ssl: tlsOptions(parsed.searchParams),
  };
}

function tlsOptions(parameters: URLSearchParams): TlsOptions | false {
  const mode = parameters.get("sslmode") ?? "disable";
  const rootFile = parameters.get("sslrootcert");
  const ca = rootFile ? readFileSync(rootFile, "utf8") : undefined;
  switch (mode) {
    case "disable":
    case "allow":
    case "prefer":
      return false;
    case "require":
    case "no-verify":
      return { rejectUnauthorized: false };
    case "verify-ca":
      return { ca, checkServerIdentity: () => undefined };
    case "verify-full":
      return { ca };
    default:
      throw new Error(`The Postgres URL has the unknown sslmode "${mode}".`);
  }
}
