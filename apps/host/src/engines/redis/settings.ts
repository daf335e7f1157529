import { createHash } from "node:crypto";
import { chownSync, existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Authority } from "../dedicated/authority.ts";
import type { Entry } from "../dedicated/entry.ts";
import type { Account } from "../dedicated/login.ts";

const mib = 1024 * 1024;

/** Connections that a server of this memory takes. */
export const maxConnections = (memoryBytes: number) =>
  Math.round(Math.min(1000, Math.max(64, memoryBytes / mib)));
export const maxMemory = (memoryBytes: number) => Math.floor(memoryBytes * 0.6);
/** The platform's own account. */
export const administrator = "administrator";

/** Off the limited disk: accounts must be changeable while it is full. */
export const settingsFolder = (entry: Entry) => join(entry.folders.root, "settings");
export const settingsFile = (entry: Entry) => join(settingsFolder(entry), "server.conf");
const accountsFile = (entry: Entry) => join(settingsFolder(entry), "accounts.acl");

/**
 * All of the data, nothing of the server: no settings, accounts, replication, modules or debugging; nothing
 * that dials elsewhere. Of the commands that Redis calls dangerous, those that only concern the own data.
 */
const owner = "+@all -@admin -@dangerous +info +keys +flushdb +flushall +sort +sort_ro";
/** What an owner keeps while the database is too large: reading, and what only makes it smaller. */
const shrinking =
  "-@write +del +unlink +flushdb +flushall +hdel +srem +zrem +lrem +ltrim +lpop +rpop +spop +xdel +xtrim";
const reader = "+@read +@connection -@dangerous +info +keys";

export const rules = (account: Account, access: "owner" | "read", isRestricted = false): string[] => [
  ...["reset", "on", `#${digest(account.password)}`, "~*", "&*"],
  ...(access === "owner" ? ownerRights(isRestricted) : reader.split(" ")),
];

export const ownerRights = (isRestricted: boolean): string[] =>
  (isRestricted ? `${owner} ${shrinking}` : owner).split(" ");

const digest = (password: string) => createHash("sha256").update(password).digest("hex");

/** Files of one server, readable by its uid only; the accounts are written once, then the server keeps them. */
export async function writeFirstFiles(entry: Entry, authority: Authority): Promise<void> {
  const { state, folders } = entry;
  const folder = settingsFolder(entry);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  mkdirSync(folders.data, { recursive: true, mode: 0o700 });
  const { certificate, key } = await authority.issue(["127.0.0.1", "localhost", state.spec.hostname]);
  const accounts = [
    "user default off",
    `user ${administrator} on #${digest(state.superuserPassword)} ~* &* +@all`,
    `user ${state.username} ${rules(state, "owner").slice(1).join(" ")}`,
  ];
  const files = {
    "server.crt": certificate,
    "server.key": key,
    "accounts.acl": accounts.map((line) => `${line}\n`).join(""),
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text, { mode: 0o600 });
  if (state.uid === null) return;
  for (const name of [".", ...Object.keys(files)]) chownSync(join(folder, name), state.uid, state.uid);
}

/** Written before each start: nothing that a server was told to change outlasts it. */
export function writeSettings(entry: Entry): void {
  const { state, folders } = entry;
  const { memoryBytes } = state.spec;
  const at = (name: string) => join(settingsFolder(entry), name);
  const lines: [string, string | number][] = [
    ["bind", "127.0.0.1"],
    ["port", 0],
    ["tls-port", state.port],
    ["tls-cert-file", quoted(at("server.crt"))],
    ["tls-key-file", quoted(at("server.key"))],
    ["tls-auth-clients", "no"],
    ["tls-protocols", quoted("TLSv1.2 TLSv1.3")],
    ["aclfile", quoted(accountsFile(entry))],
    // The accounts file decides who gets in; there is no account without a password.
    ["protected-mode", "no"],
    ["dir", quoted(folders.data)],
    ["daemonize", "no"],
    ["set-proc-title", "no"],
    ["enable-debug-command", "no"],
    ["enable-module-command", "no"],
    ["enable-protected-configs", "no"],
    ["maxclients", maxConnections(memoryBytes)],
    // The rest is for connections, for scripts and for the copy that a rewrite of the log makes.
    ["maxmemory", maxMemory(memoryBytes)],
    ["maxmemory-policy", "noeviction"],
    // A snapshot left by an import would hide the log, so there is only the log.
    ["save", '""'],
    // Switched on after the start where only a snapshot is there: with the log on, it would be ignored.
    ["appendonly", hasOnlySnapshot(entry) ? "no" : "yes"],
    ["appendfsync", "everysec"],
    // A backup reads as a replica does; there is no other one to wait for.
    ["repl-diskless-sync-delay", 0],
    ["auto-aof-rewrite-min-size", "16mb"],
  ];
  const file = settingsFile(entry);
  writeFileSync(`${file}.new`, lines.map(([name, value]) => `${name} ${value}\n`).join(""), { mode: 0o600 });
  if (state.uid !== null) chownSync(`${file}.new`, state.uid, state.uid);
  renameSync(`${file}.new`, file);
}

/** After a restore: data that no log has yet. */
export const hasOnlySnapshot = ({ folders }: Entry) =>
  existsSync(join(folders.data, "dump.rdb")) && !existsSync(join(folders.data, "appendonlydir"));

const quoted = (text: string) => `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
