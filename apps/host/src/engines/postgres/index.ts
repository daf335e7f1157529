import { DedicatedEngine, type EngineOptions } from "../dedicated/engine.ts";
import { postgres } from "./kind.ts";

export type PostgresEngine = DedicatedEngine;

/** Managed PostgreSQL: a dedicated server per database, TLS and SCRAM only, under a uid of its own when root. */
export const createPostgresEngine = (options: EngineOptions): PostgresEngine =>
  new DedicatedEngine(postgres, options);
