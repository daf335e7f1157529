import {
  HostError,
  type DatabaseCredentials,
  type HostedDatabase,
  type LoginProof,
  type PoolingSeen,
} from "@platform/host-api";
import { isAlive, lastLines, type ProcessIdentity } from "@platform/postgres";
import type { Authority } from "./authority.ts";
import { writeState, type DatabaseFolders, type DatabaseState } from "./database-state.ts";
import type { Account, Login } from "./login.ts";

/** What of a kind of server is shown to those who use it. */
interface Product {
  readonly engine: HostedDatabase["engine"];
  product(exactVersion: string): string;
  url(state: DatabaseState, account: Account): string;
}

/** One database as this process knows it: what is on disk, and what was last seen. */
export interface Entry {
  state: DatabaseState;
  readonly folders: DatabaseFolders;
  server: ProcessIdentity | null;
  proof: LoginProof | null;
  failure: { reason: string; detail: string } | null;
  /** Failed starts in a row, and when the next one is due (performance.now). */
  failures: number;
  nextStartAt: number;
  /** When its files may be made smaller the next time (performance.now). */
  nextReclaimAt: number;
  /** Processes that the kernel had killed for memory when the server was started or last looked at. */
  oomKills: number;
  /** The same of its pooler. */
  poolFailures: number;
  nextPoolAt: number;
}

export function newEntry(state: DatabaseState, folders: DatabaseFolders): Entry {
  const seen = { server: null, proof: null, failure: null, failures: 0, nextStartAt: 0, oomKills: 0 };
  const pooler = { poolFailures: 0, nextPoolAt: 0, nextReclaimAt: 0 };
  return { state, folders, ...seen, ...pooler };
}

/** Changes what is kept, on disk first. */
export function save(entry: Entry, change: Partial<DatabaseState>): void {
  const state = { ...entry.state, ...change };
  writeState(entry.folders, state);
  entry.state = state;
}

/** `running` only for a living process whose last login with the issued credentials succeeded. */
export function viewOf(
  entry: Entry,
  kind: Product,
  hasMemoryLimit: boolean,
  pooling: PoolingSeen | null,
  wayBack: HostedDatabase["wayBack"],
): HostedDatabase {
  const { state, proof } = entry;
  const alive = entry.server !== null && isAlive(entry.server);
  const shown = stateOf(entry, alive);
  return {
    key: state.key,
    engine: kind.engine,
    product: kind.product(state.version),
    version: state.version,
    state: shown,
    hostname: state.spec.hostname,
    port: state.port,
    proof,
    failure: shown === "failed" ? failureSeen(entry, alive) : null,
    isolation: { ownUid: state.uid !== null, memoryLimit: hasMemoryLimit, diskLimit: state.hasDisk },
    rotating: state.oldAccounts.length > 0,
    pooling,
    wayBack,
  };
}

function stateOf(entry: Entry, alive: boolean): HostedDatabase["state"] {
  const { state, proof } = entry;
  if (state.phase === "creating") return "creating";
  if (alive && proof?.ok) return "running";
  return state.wanted === "stopped" && !alive ? "stopped" : "failed";
}

function failureSeen(entry: Entry, alive: boolean): { reason: string; detail: string } {
  if (alive)
    return entry.failure ?? { reason: "starting", detail: "The server runs; no login was made yet." };
  if (entry.failure) return entry.failure;
  const tail = lastLines(entry.folders.logFile, 3);
  return {
    reason: "crashed",
    detail: `The server ended and is being started again. Its log ends with: ${tail}`,
  };
}

export function failureOf(proof: LoginProof): { reason: string; detail: string } {
  return { reason: proof.reason ?? "login_failed", detail: proof.detail ?? "" };
}

/** The same key for something else is a mistake of the caller, never a silent change. */
export function assertSameSpec(state: DatabaseState, spec: DatabaseState["spec"]): void {
  const { version, hostname } = state.spec;
  if (version === spec.version && hostname === spec.hostname) return;
  throw new HostError(
    "CONFLICT",
    409,
    `Database ${state.key} exists with version ${version} at ${hostname}. Use another key, or destroy it first.`,
    { reason: "spec_differs" },
  );
}

export const notFound = (key: string) =>
  new HostError("NOT_FOUND", 404, `There is no database ${key} on this host.`);

export function loginFailed(entry: Entry, proof: LoginProof): HostError {
  const { reason, detail } = failureOf(proof);
  const log = lastLines(entry.folders.logFile, 5);
  return new HostError(
    "LOGIN_FAILED",
    502,
    `Database ${entry.state.key} does not let its user in: ${reason} (${detail}). See its logs.`,
    { reason, detail, log },
  );
}

export function credentialsOf(
  kind: Product,
  state: DatabaseState,
  authority: Authority,
  account: Account = state,
  pooling: PoolingSeen | null = null,
): DatabaseCredentials {
  const { database, port } = state;
  const { username, password } = account;
  const url = kind.url(state, account);
  const pooledPort = pooling?.state === "running" ? pooling.port : null;
  return {
    ...{ url, host: state.spec.hostname, port, username, password, database },
    caCertificate: authority.certificate,
    pooledUrl: pooledPort === null ? null : kind.url({ ...state, port: pooledPort }, account),
    pooledPort,
  };
}

export function loginOf(entry: Entry, authority: Authority, account: Account = entry.state): Login {
  const { port, database, spec } = entry.state;
  const { username, password } = account;
  return {
    hostname: spec.hostname,
    port,
    username,
    password,
    database,
    caCertificate: authority.certificate,
  };
}
