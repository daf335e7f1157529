import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, lstatSync, mkdirSync, readFileSync } from "node:fs";
import { renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { chownTree, makeCluster, serverEnvironment, type PostgresBinaries } from "@platform/postgres";
import type { Authority } from "../dedicated/authority.ts";
import type { DatabaseFolders, DatabaseState } from "../dedicated/database-state.ts";
import { statementSettings } from "./insights.ts";

const run = promisify(execFile);
const mib = 1024 * 1024;

/** TLS and SCRAM only, for the platform's superuser as for the tenant. */
const hostBasedAuthentication = "hostssl all all 127.0.0.1/32 scram-sha-256\n";

/** The initialised cluster that databases of one version are copied from; made once. */
export async function prepareTemplate(
  templates: string,
  major: string,
  binaries: PostgresBinaries,
): Promise<string> {
  const cluster = join(templates, major);
  // Written before the cluster, so that a cluster never is without its password.
  const password = templatePassword(cluster);
  await makeCluster(binaries, cluster, password, async (made) => {
    writeFileSync(join(made, "pg_hba.conf"), hostBasedAuthentication, { mode: 0o600 });
    if (process.getuid?.() === 0) await chownTree(made, 0);
  });
  return cluster;
}

/** Superuser password of every fresh copy, until the copy's own is set. */
export function templatePassword(template: string): string {
  const file = `${template}.password`;
  if (!existsSync(file)) {
    writeFileSync(`${file}.new`, randomBytes(24).toString("base64url"), { mode: 0o600, flush: true });
    renameSync(`${file}.new`, file);
  }
  return readFileSync(file, "utf8");
}

/** Copies the template into the database's folder, with a certificate of its own, for the database's uid. */
export async function cloneCluster(
  template: string,
  folders: DatabaseFolders,
  state: DatabaseState,
  authority: Authority,
): Promise<void> {
  // No hard links: a server writes its files in place and would change the template.
  await run("cp", ["-a", "--reflink=auto", "--", template, folders.data], {
    env: serverEnvironment,
  });
  const { certificate, key } = await authority.issue(["127.0.0.1", "localhost", state.spec.hostname]);
  writeFileSync(join(folders.data, "server.crt"), certificate, { mode: 0o600 });
  writeFileSync(join(folders.data, "server.key"), key, { mode: 0o600 });
  if (!state.hasDisk) return;
  // Without room for its log a server ends; a full table only fails. So they have disks of their own.
  mkdirSync(dirname(folders.journal), { recursive: true });
  await run("mv", ["--", join(folders.data, "pg_wal"), folders.journal], { env: serverEnvironment });
  symlinkSync(folders.journal, join(folders.data, "pg_wal"));
}

/**
 * What every checkpoint writes lies beside the log: without room for it the server ends. Before each start, so that
 * servers of earlier releases and restored ones have it too; safe to run again after a crash at any point.
 */
export async function keepCheckpointsWritable({ data, journal }: DatabaseFolders): Promise<void> {
  const [inData, beside] = [join(data, "pg_logical"), join(dirname(journal), "logical")];
  const found = lstatSync(inData, { throwIfNoEntry: false });
  if (found?.isSymbolicLink()) return;
  if (found) {
    rmSync(beside, { recursive: true, force: true });
    await run("cp", ["-a", "--", inData, beside], { env: serverEnvironment });
    rmSync(inData, { recursive: true });
  }
  symlinkSync(beside, inData);
}

/** Connections that a server of this memory takes. */
export const maxConnections = (memoryBytes: number) =>
  Math.round(Math.min(200, Math.max(20, memoryBytes / (8 * mib))));

/** Settings of a running server. Given as arguments, so that no SQL can change them; none is secret. */
export function serverSettings(state: DatabaseState): Record<string, string | number> {
  const { memoryBytes, storageBytes, version } = state.spec;
  const within = (value: number, least: number, most: number) =>
    Math.round(Math.min(most, Math.max(least, value)));
  return {
    listen_addresses: "127.0.0.1",
    port: state.port,
    unix_socket_directories: "",
    ssl: "on",
    ssl_min_protocol_version: "TLSv1.2",
    password_encryption: "scram-sha-256",
    max_connections: maxConnections(memoryBytes),
    shared_buffers: `${within(memoryBytes / 4 / mib, 16, 2048)}MB`,
    work_mem: `${within(memoryBytes / 64 / mib, 1, 32)}MB`,
    maintenance_work_mem: `${within(memoryBytes / 16 / mib, 8, 256)}MB`,
    wal_buffers: "1MB",
    min_wal_size: "32MB",
    max_wal_size: "64MB",
    // A backup that falls behind is given up before the log's disk is full.
    max_slot_wal_keep_size: "192MB",
    // A copy lets in once it is complete, not while it reads the log.
    hot_standby: "off",
    temp_file_limit: `${within(storageBytes / 4 / 1024, 1024, 2 ** 31 - 1)}kB`,
    autovacuum_max_workers: 1,
    max_worker_processes: 2,
    max_parallel_workers: 0,
    huge_pages: "off",
    ...statementSettings,
    jit: "off",
    ...(Number(version) >= 18 ? { io_method: "sync" } : {}),
    // Statements may hold passwords and customers' data: the log gets errors without their text.
    log_statement: "none",
    log_min_error_statement: "panic",
    log_min_duration_statement: -1,
    log_parameter_max_length: 0,
    log_error_verbosity: "terse",
  };
}
