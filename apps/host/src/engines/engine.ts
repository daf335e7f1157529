import type {
  DatabaseCredentials,
  DatabaseSpec,
  DatabaseStats,
  HostedDatabase,
  LoginProof,
} from "@platform/host-api";
import type { z } from "zod";

export type EngineSpec = z.output<typeof import("@platform/host-api").DatabaseSpec>;
export type { DatabaseSpec };

/** A managed database engine of one host: a dedicated server per database. Idempotent by key. */
export interface DatabaseEngine {
  readonly engine: DatabaseSpec["engine"];
  /** Whether servers can run here; `why` holds the install line when not. */
  report(): Promise<{ usable: boolean; versions: string[]; why: string | null }>;
  /** Resolves after a login with the credentials that will be handed out; throws with a typed reason. */
  create(key: string, spec: EngineSpec, signal: AbortSignal): Promise<HostedDatabase>;
  find(key: string): Promise<HostedDatabase | null>;
  list(): Promise<HostedDatabase[]>;
  start(key: string): Promise<HostedDatabase>;
  stop(key: string): Promise<HostedDatabase>;
  credentials(key: string): Promise<DatabaseCredentials>;
  rotate(key: string): Promise<DatabaseCredentials>;
  /** Logs in with the issued URL over TCP and TLS. */
  probe(key: string): Promise<LoginProof>;
  stats(key: string): Promise<DatabaseStats>;
  logs(key: string, lines: number): Promise<string[]>;
  /** Stops the server and removes every trace. */
  destroy(key: string): Promise<void>;
  /** After a host restart: adopt what runs, start what should run and does not, remove half-made ones. */
  recover(): Promise<void>;
}
