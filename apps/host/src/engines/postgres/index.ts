import { PostgresEngine, type PostgresEngineOptions } from "./engine.ts";

export type { PostgresEngine, PostgresEngineOptions };

/** Managed PostgreSQL: a dedicated server per database, TLS and SCRAM only, under a uid of its own when root. */
export function createPostgresEngine(options: PostgresEngineOptions): PostgresEngine {
  return new PostgresEngine(options);
}
