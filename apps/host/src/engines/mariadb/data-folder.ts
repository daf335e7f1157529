import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { chownSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { chownTree, serverEnvironment } from "@platform/postgres";
import type { Authority } from "../dedicated/authority.ts";
import type { Entry } from "../dedicated/entry.ts";
import { accountStatements, administrator, closingStatements } from "./accounts.ts";
import type { Programs } from "./programs.ts";

const run = promisify(execFile);
const mib = 1024 * 1024;
/** The account that every Linux has; the installer's files change hands afterwards. */
const nobody = 65_534;
export const logFileMib = 16;

/** Makes the system tables once; made beside and renamed, so that a crash leaves no half of it. */
export async function makeTemplate(folder: string, line: string, programs: Programs): Promise<string> {
  const template = join(folder, line);
  for (const name of readdirSync(folder)) {
    if (name.startsWith(`${line}.half-`)) rmSync(join(folder, name), { recursive: true, force: true });
  }
  if (existsSync(template)) return template;
  const half = `${template}.half-${randomUUID()}`;
  const isRoot = process.getuid?.() === 0;
  mkdirSync(half, { mode: 0o711 });
  const data = join(half, "data");
  mkdirSync(data, { mode: 0o700 });
  if (isRoot) chownSync(data, nobody, nobody);
  const options = ["--no-defaults", `--datadir=${data}`, "--skip-name-resolve", "--skip-test-db"];
  const method = ["--auth-root-authentication-method=normal", `--innodb-log-file-size=${logFileMib}M`];
  try {
    await run(programs.installer, [...options, ...method], {
      ...{ cwd: "/", env: serverEnvironment, timeout: 180_000 },
      ...(isRoot ? { uid: nobody, gid: nobody } : {}),
    });
    if (isRoot) await chownTree(data, 0);
    renameSync(data, template);
  } catch (cause) {
    const { stderr } = cause as { stderr?: string };
    const last = (stderr ?? String(cause)).trim().split("\n").slice(-3).join(" ");
    throw new Error(`mariadb-install-db failed: ${last}`, { cause });
  } finally {
    rmSync(half, { recursive: true, force: true });
  }
  return template;
}

export const firstStatements = (entry: Entry) => join(entry.folders.root, "first.sql");
export const temporaryFolder = (entry: Entry) => join(dirname(entry.folders.data), "tmp");

/**
 * A copy of the template. What its first start does before it accepts anybody stands in a file that only
 * the server's uid may read: the system's own accounts are closed, those of the platform and the owner made.
 */
export async function copyTemplate(entry: Entry, template: string, authority: Authority): Promise<void> {
  const { folders, state } = entry;
  await run("cp", ["-a", "--reflink=auto", "--", template, folders.data], { env: serverEnvironment });
  const { certificate, key } = await authority.issue(["127.0.0.1", "localhost", state.spec.hostname]);
  writeFileSync(join(folders.data, "server.crt"), certificate, { mode: 0o600 });
  writeFileSync(join(folders.data, "server.key"), key, { mode: 0o600 });
  mkdirSync(temporaryFolder(entry), { recursive: true, mode: 0o700 });
  const statements = [
    ...closingStatements,
    `create user if not exists '${administrator}'@'127.0.0.1' identified by '${state.superuserPassword}' require ssl`,
    `grant all privileges on *.* to '${administrator}'@'127.0.0.1' with grant option`,
    `create database if not exists \`${state.database}\``,
    ...accountStatements(state, state, "owner", connectionsOf(state.spec.memoryBytes)),
  ];
  writeFileSync(firstStatements(entry), statements.map((line) => `${line};\n`).join(""), { mode: 0o600 });
  if (state.uid === null) return;
  for (const path of [firstStatements(entry), temporaryFolder(entry)]) chownSync(path, state.uid, state.uid);
}

const bounded = (value: number, least: number, most: number) =>
  Math.round(Math.min(most, Math.max(least, value)));

/** A few are left for the platform when an account has taken all that it may. */
export const connectionsOf = (memoryBytes: number) => bounded(memoryBytes / (6 * mib), 20, 200);
const platformConnections = 10;

/** Settings of a running server. Given as arguments, so that no SQL outlasts a restart; none is secret. */
export function serverArguments(entry: Entry): string[] {
  const { folders, state } = entry;
  const { memoryBytes } = state.spec;
  const at = (name: string) => join(folders.data, name);
  return [
    "--no-defaults",
    `--datadir=${folders.data}`,
    `--port=${state.port}`,
    "--bind-address=127.0.0.1",
    // Relative to the data folder: a socket's path has at most 107 characters.
    "--socket=server.sock",
    `--pid-file=${at("server.pid")}`,
    `--tmpdir=${temporaryFolder(entry)}`,
    `--secure-file-priv=${temporaryFolder(entry)}`,
    "--skip-name-resolve",
    "--local-infile=0",
    "--symbolic-links=0",
    "--require-secure-transport=ON",
    `--ssl-cert=${at("server.crt")}`,
    `--ssl-key=${at("server.key")}`,
    "--tls-version=TLSv1.2,TLSv1.3",
    "--character-set-server=utf8mb4",
    "--collation-server=utf8mb4_unicode_ci",
    `--max-connections=${connectionsOf(memoryBytes) + platformConnections}`,
    `--innodb-buffer-pool-size=${bounded(memoryBytes / 4, 8 * mib, 2048 * mib)}`,
    `--innodb-log-file-size=${logFileMib}M`,
    "--innodb-log-buffer-size=2M",
    `--key-buffer-size=${bounded(memoryBytes / 64, mib, 32 * mib)}`,
    `--aria-pagecache-buffer-size=${bounded(memoryBytes / 64, mib, 32 * mib)}`,
    `--tmp-table-size=${bounded(memoryBytes / 32, mib, 32 * mib)}`,
    `--max-heap-table-size=${bounded(memoryBytes / 32, mib, 32 * mib)}`,
    "--max-allowed-packet=64M",
    "--performance-schema=OFF",
    // A tenant's table shall fail when the disk is full, not wait for room that never comes.
    "--default-storage-engine=InnoDB",
    "--enforce-storage-engine=InnoDB",
    "--log-warnings=1",
    ...(state.phase === "creating" && existsSync(firstStatements(entry))
      ? [`--init-file=${firstStatements(entry)}`]
      : []),
  ];
}
