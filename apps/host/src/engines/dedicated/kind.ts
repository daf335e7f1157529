import type {
  DatabaseSpec,
  DatabaseStats,
  LoginProof,
  MigrationsDone,
  MigrationsSpec,
  QueryAnswer,
  QueryRequest,
  LogStock,
} from "@platform/host-api";
import type { z } from "zod";
import type { ProcessIdentity } from "@platform/postgres";
import type { Authority } from "./authority.ts";
import type { BackupMethod } from "./backup.ts";
import type { DatabaseState } from "./database-state.ts";
import type { Entry } from "./entry.ts";
import type { Account, Login } from "./login.ts";
import type { Pooling } from "./pooling.ts";

/** What is run, as the database's uid, in the foreground. Nothing in it is secret: everyone may read arguments. */
export interface ServerCommand {
  readonly program: string;
  readonly args: readonly string[];
  readonly argv0?: string;
  readonly env?: NodeJS.ProcessEnv;
}

export type Insights = Pick<DatabaseStats, "connections" | "uptimeSec" | "cacheHitRatio" | "slowQueries">;

export type EngineReport = { usable: boolean; versions: string[]; why: string | null };

/** For a server that a full disk ends, or lets nobody delete: it is stopped from writing before that. */
export interface SoftQuota {
  /** Room on the disk beyond the database's size, for what is written between two looks and for undoing it. */
  reserveBytes(spec: DatabaseSpec): number;
  /** Takes the right to write more from every account and their sessions, or gives it back. Safe to run again. */
  restrict(entry: Entry, authority: Authority, isRestricted: boolean): Promise<void>;
  /** Bytes that are only there while the server makes its files smaller. */
  passingBytes?(entry: Entry): number;
  /** Begins to make the files as small as their content; left out where deleting does that. */
  reclaim?(entry: Entry, authority: Authority): Promise<void>;
}

/** The server's log, kept on this machine until somebody has stored it elsewhere. */
export interface LogArchive {
  /** Begins with the first call. Whatever was acknowledged before it is in what the answer lists. */
  take(entry: Entry, authority: Authority): Promise<LogStock>;
  /** A segment that was listed. @throws HostError `NOT_FOUND` */
  read(entry: Entry, name: string): Promise<Buffer>;
  /** Once they are stored elsewhere; also those that are gone already. */
  forget(entry: Entry, names: readonly string[]): Promise<void>;
  /** Nothing is kept any more. */
  stop(entry: Entry): Promise<void>;
}

/** How a kind of server changes its major version; left out where there is no way. */
export interface MajorUpgrade {
  /** @throws HostError `INVALID`, `ENGINE_UNAVAILABLE` when it cannot be done here */
  assertPossible(from: string, to: string): Promise<void>;
  /** Lets in nobody but the platform and ends all sessions. Safe to run again. */
  close(entry: Entry, authority: Authority): Promise<void>;
  /** Lets in the accounts of the state and no others. Safe to run again. */
  open(entry: Entry, authority: Authority): Promise<void>;
  /**
   * Everything of one server's database into the other's empty one, compared afterwards.
   *
   * @throws HostError `INVALID` when it cannot be carried, or is not the same there
   */
  carry(from: Entry, to: Entry, authority: Authority, signal: AbortSignal): Promise<void>;
}

/** What differs between the servers that a dedicated engine runs; nothing in it decides when. */
export interface ServerKind {
  readonly backup: BackupMethod;
  readonly engine: DatabaseSpec["engine"];
  /** Less memory than this, in bytes, and no server of this kind starts. */
  readonly leastMemoryBytes: number;
  /** Signals that stop a server, the mildest first. SIGKILL follows by itself. */
  readonly stopSignals: readonly NodeJS.Signals[];
  /** Bytes of a disk of its own for what must be written though the database is full; `null`: none is needed. */
  readonly journalBytes: number | null;
  /** Left out where a moment cannot be restored. */
  readonly logArchive?: LogArchive;
  /** Shared connections in front of the servers of one engine; left out where there is no such thing. */
  readonly openPooling?: () => Pooling;
  /** `null`: the server itself refuses what does not fit, and goes on. */
  readonly quota: SoftQuota | null;
  report(): Promise<EngineReport>;
  /** Exact version of the server. @throws HostError `INVALID`, `ENGINE_UNAVAILABLE` */
  exactVersion(version: string): Promise<string>;
  /** What stands for the product in front of people, such as "MySQL-compatible (MariaDB 10.11.19)". */
  product(exactVersion: string): string;
  /** Name for a new database on its own server. */
  databaseName(): string;
  url(state: DatabaseState, account: Account): string;
  /** The data folder that new databases of a version are copied from; made once, below `folder`. @returns its path */
  template(folder: string, version: string): Promise<string>;
  /**
   * Fills the empty data folder from the template, with the server's certificate in it; after the next
   * start it lets in the platform's administrator, by a password of its own, and nobody else.
   */
  prepare(entry: Entry, template: string, authority: Authority): Promise<void>;
  command(entry: Entry): Promise<ServerCommand>;
  /** The server that runs on the data folder. */
  running(entry: Entry): ProcessIdentity | null;
  /** After the first start, before anything is handed out. Safe to run again. */
  furnish(entry: Entry, authority: Authority): Promise<void>;
  /** Resolves only once the administrator is let in or the server cannot be waited for. */
  proveAdministrator(entry: Entry, authority: Authority): Promise<LoginProof>;
  /**
   * Logs in as a client would and says what happened; never throws.
   *
   * @param mustWrite also makes and removes something in the database
   */
  prove(login: Login, mustWrite?: boolean): Promise<LoginProof>;
  /** A further way in to the same database. Safe to run again. */
  addAccount(entry: Entry, authority: Authority, account: Account, access: "owner" | "read"): Promise<void>;
  /** Lets the account in no more and ends its sessions. Safe to run again. */
  dropAccount(entry: Entry, authority: Authority, username: string): Promise<void>;
  /** Where a server that is full hangs up without a word: how many connections it takes. */
  readonly silentAt?: (state: DatabaseState) => number;
  /** What only the server itself knows. */
  insights(entry: Entry, authority: Authority): Promise<Insights>;
  /** Left out where there are no migrations. What fails is an answer. */
  migrate?(login: Login, migrations: z.output<typeof MigrationsSpec>): Promise<MigrationsDone>;
  /** Left out where there is one version. */
  readonly majorUpgrade?: MajorUpgrade;
  /** Left out where there is no query language. A statement that fails is an answer. */
  query?(login: Login, request: QueryRequest): Promise<QueryAnswer>;
}
