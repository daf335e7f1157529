import { DedicatedEngine, type EngineOptions } from "../dedicated/engine.ts";
import { mariadb } from "./kind.ts";

/** Managed MySQL, served by MariaDB: a dedicated server per database, TLS only, under a uid of its own when root. */
export const createMariadbEngine = (options: EngineOptions): DedicatedEngine =>
  new DedicatedEngine(mariadb, options);
