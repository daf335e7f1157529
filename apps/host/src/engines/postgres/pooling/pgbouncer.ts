import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, chownSync, closeSync, mkdirSync, openSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { identify, lastLines, serverEnvironment, type ProcessIdentity } from "@platform/postgres";
import type { Authority } from "../../dedicated/authority.ts";
import type { Entry } from "../../dedicated/entry.ts";
import { findProgram } from "../../dedicated/program.ts";
import { findServer } from "../../dedicated/running.ts";
import { maxConnections } from "../cluster.ts";

export const installLine = "apt-get install pgbouncer";
export const findPgbouncer = () => findProgram(["pgbouncer"]);

/**
 * How the server's connections are shared, so that nobody can take what another one needs: the rest is for
 * direct connections of production, for the platform's own logins and for the superuser.
 */
export function sharesOf(memoryBytes: number) {
  const all = maxConnections(memoryBytes);
  return {
    production: Math.floor(all * 0.4),
    previews: Math.floor(all * 0.2),
    /** Direct connections of all previews together. */
    previewsDirect: Math.floor(all * 0.15),
  };
}

export const previewsName = (database: string) => `${database}_previews`;

const filesOf = ({ folders }: Entry) => {
  const folder = join(folders.root, "pooler");
  const at = (name: string) => join(folder, name);
  return { folder, settings: at("pooler.ini"), users: at("users.txt"), ca: at("ca.pem"), log: at("log") };
};

/** An account that may look at the pooler itself and at no database, of one edition of its files. */
export interface Watcher {
  readonly username: string;
  readonly password: string;
}

/**
 * Everybody who may log in now. Only the server's own user reads the file.
 *
 * @returns who is let in once the pooler has read these very files, and not before
 */
export function writeSettings(entry: Entry, authority: Authority, port: number): Watcher {
  const watcher = { username: `watcher_${secret()}`, password: secret() };
  const { state } = entry;
  const files = filesOf(entry);
  const shares = sharesOf(state.spec.memoryBytes);
  const line = (name: string, size: number) =>
    `${name} = host=127.0.0.1 port=${state.port} dbname=${state.database} pool_size=${size} max_db_connections=${size}`;
  const settings = {
    listen_addr: "127.0.0.1",
    listen_port: port,
    unix_socket_dir: "",
    auth_type: "scram-sha-256",
    auth_file: files.users,
    stats_users: watcher.username,
    pool_mode: "transaction",
    max_client_conn: 1000,
    server_tls_sslmode: "verify-full",
    server_tls_ca_file: files.ca,
    server_idle_timeout: 60,
    server_connect_timeout: 5,
    server_login_retry: 1,
    query_wait_timeout: 60,
    ignore_startup_parameters: "extra_float_digits",
    // Texts of statements and names of accounts are nobody's business.
    log_connections: 0,
    log_disconnections: 0,
    log_stats: 0,
    log_pooler_errors: 0,
  };
  const accounts = [state, ...state.oldAccounts, ...state.users];
  const pending = state.pendingAccount ? [state.pendingAccount] : [];
  mkdirSync(files.folder, { recursive: true, mode: 0o700 });
  if (state.uid !== null) chownSync(files.folder, state.uid, state.uid);
  put(files.ca, authority.certificate, state.uid);
  put(
    files.users,
    [...accounts, ...pending, watcher]
      .map(({ username, password }) => `"${username}" "${password}"\n`)
      .join(""),
    state.uid,
  );
  const lines = [
    "[databases]",
    line(state.database, shares.production),
    line(previewsName(state.database), shares.previews),
    "[pgbouncer]",
    ...Object.entries(settings).map(([name, value]) => `${name} = ${value}`),
  ];
  put(files.settings, `${lines.join("\n")}\n`, state.uid);
  return watcher;
}

const secret = () => randomBytes(12).toString("hex");

function put(file: string, text: string, uid: number | null): void {
  writeFileSync(`${file}.new`, text, { mode: 0o600 });
  chmodSync(`${file}.new`, 0o600);
  if (uid !== null) chownSync(`${file}.new`, uid, uid);
  renameSync(`${file}.new`, file);
}

export const runningPooler = (entry: Entry): ProcessIdentity | null =>
  findServer(["pgbouncer"], filesOf(entry).settings);

/** In a session of its own, so that it outlives us. Nothing secret is among its arguments. */
export async function startPgbouncer(entry: Entry): Promise<ProcessIdentity> {
  const program = findPgbouncer();
  if (program === null) throw new Error(`pgbouncer is not installed. Needed: ${installLine}`);
  const files = filesOf(entry);
  const { uid } = entry.state;
  const log = openSync(files.log, "w", 0o600);
  try {
    const child = spawn(program, [files.settings], {
      cwd: "/",
      env: serverEnvironment,
      detached: true,
      stdio: ["ignore", log, log],
      ...(uid === null ? {} : { uid, gid: uid }),
    });
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", reject);
    });
    child.on("error", () => {
      // Only failures of kill() arrive here once it runs, and it is signalled by number.
    });
    child.unref();
    const identity = child.pid === undefined ? null : identify(child.pid);
    if (!identity) throw new Error(`The pooler ended at once. ${lastLines(files.log)}`);
    return identity;
  } finally {
    closeSync(log);
  }
}

export const poolerLog = (entry: Entry) => lastLines(filesOf(entry).log, 3);
