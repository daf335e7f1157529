import type { LoginProof, PoolingSeen } from "@platform/host-api";
import type { Authority } from "./authority.ts";
import type { DatabaseState } from "./database-state.ts";
import type { Entry } from "./entry.ts";
import type { Login } from "./login.ts";

/** Which part of a database's connections is drawn from. */
export type Share = "production" | "previews";

/** What of a server's kind, limits and authority a pooler needs. */
export interface PoolingParts {
  readonly kind: { prove(login: Login): Promise<LoginProof> };
  readonly limits: { hold(state: DatabaseState, pid: number): Promise<void> };
  readonly authority: Authority;
}

/** Shared connections in front of a server. What goes wrong with them is shown, and never the database's end. */
export interface Pooling {
  view(entry: Entry): PoolingSeen;
  /** Whether `settle` should be called although no account changed. */
  needsCare(entry: Entry): boolean;
  /** Up, for the accounts of this moment and nobody else, proved by a login. Never throws; safe to run again. */
  settle(entry: Entry, parts: PoolingParts, nextPort: () => Promise<number>): Promise<void>;
  /** One login through it; `view` then tells how that went. */
  prove(entry: Entry, parts: PoolingParts): Promise<void>;
  /** Where a connection to the database's `port` goes, and how many of its share there may be; `null`: any number. */
  place(entry: Entry, port: number, share: Share): { port: number; most: number | null };
  /** Resolves when nothing of it runs. */
  stop(entry: Entry): Promise<void>;
  /** Lets go of what is this daemon's; processes go on. */
  close(): Promise<void>;
}
