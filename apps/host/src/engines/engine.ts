import type { Socket } from "node:net";
import type {
  DatabaseCredentials,
  DatabaseSpec,
  DatabaseStats,
  DatabaseUser,
  Frame,
  HostedDatabase,
  LoginProof,
  MigrationsDone,
  MigrationsSpec,
  QueryAnswer,
  QueryRequest,
  LogStock,
} from "@platform/host-api";
import type { z } from "zod";
import type { PoolState } from "../pool/index.ts";
import type { Manifest } from "./dedicated/manifest.ts";

export type EngineSpec = z.output<typeof import("@platform/host-api").DatabaseSpec>;
export type { DatabaseSpec };

/** A managed database engine of one host: a dedicated server per database. Idempotent by key. */
export interface DatabaseEngine {
  readonly engine: DatabaseSpec["engine"];
  /** Whether servers can run here; `why` holds the install line when not. */
  report(): Promise<{ usable: boolean; versions: string[]; why: string | null }>;
  /** What is made before anybody asks. */
  spares(): PoolState<EngineSpec>;
  /** Resolves after a login with the credentials that will be handed out; throws with a typed reason. */
  create(key: string, spec: EngineSpec, signal: AbortSignal): Promise<HostedDatabase>;
  find(key: string): Promise<HostedDatabase | null>;
  list(): Promise<HostedDatabase[]>;
  start(key: string): Promise<HostedDatabase>;
  stop(key: string): Promise<HostedDatabase>;
  credentials(key: string): Promise<DatabaseCredentials>;
  /** A new account, proved; the one before holds until `endRotation`. */
  rotate(key: string): Promise<DatabaseCredentials>;
  /** Lets nobody in any more by what was handed out before the rotation, and ends those sessions. */
  endRotation(key: string): Promise<HostedDatabase>;
  /** A further account by name; the same name again returns the same one. */
  putUser(key: string, name: string, access: DatabaseUser["access"]): Promise<DatabaseCredentials>;
  users(key: string): Promise<DatabaseUser[]>;
  /**
   * A server of a newer major version takes its place; the one before is kept, stopped.
   *
   * @throws HostError `INVALID` when the content cannot be carried: the database goes on as it was
   */
  upgrade(key: string, version: string, signal: AbortSignal): Promise<HostedDatabase>;
  /** The server before the upgrade again, without what was written since. @throws HostError `CONFLICT` without one */
  goBack(key: string): Promise<HostedDatabase>;
  /** Ends the way back. */
  forgetBefore(key: string): Promise<void>;
  /** Ends its sessions too; resolves also when there is none. */
  dropUser(key: string, name: string): Promise<void>;
  /**
   * Logs in with the issued URL over TCP and TLS.
   *
   * @param dial opens the way that an app's connection takes; straight to the server when left out
   */
  probe(key: string, dial?: (hostname: string, port: number) => Promise<Socket>): Promise<LoginProof>;
  /** Frames of a whole copy, made while the server serves; throws when it would not be whole. */
  backup(key: string, signal: AbortSignal): AsyncIterable<Buffer>;
  /**
   * A new database of a backup's frames, proved by a login.
   *
   * @param targetTime nothing later shall be in it
   * @throws HostError `INVALID` when they hold no whole database
   */
  restore(
    key: string,
    spec: EngineSpec,
    manifest: Manifest,
    frames: AsyncIterable<Frame>,
    targetTime: string | null,
    signal: AbortSignal,
  ): Promise<HostedDatabase>;
  /** What can be done with the log of a running database. @throws HostError `INVALID` where there is none */
  log(key: string): Promise<{
    take(): Promise<LogStock>;
    read(name: string): Promise<Buffer>;
    forget(names: readonly string[]): Promise<void>;
    stop(): Promise<void>;
  }>;
  /** Where on this machine a connection to the database's `port` leads; `most`: how many of its share may be open. */
  place(
    key: string,
    port: number,
    share: "production" | "previews",
  ): Promise<{ port: number; most: number | null } | null>;
  stats(key: string): Promise<DatabaseStats>;
  /** @throws HostError `UNSUPPORTED` for an engine without a query language */
  query(key: string, request: QueryRequest): Promise<QueryAnswer>;
  /** @throws HostError `UNSUPPORTED` for an engine without migrations */
  migrate(key: string, migrations: z.output<typeof MigrationsSpec>): Promise<MigrationsDone>;
  logs(key: string, lines: number): Promise<string[]>;
  /** Stops the server and removes every trace. */
  destroy(key: string): Promise<void>;
  /** After a host restart: adopt what runs, start what should run and does not, remove half-made ones. */
  recover(): Promise<void>;
  /** Stops looking after the servers; they go on. */
  close(): Promise<void>;
}
