import { DedicatedEngine, type EngineOptions } from "../dedicated/engine.ts";
import { redis } from "./kind.ts";

/** Managed Redis: a dedicated server per database, TLS and named accounts only, under a uid of its own when root. */
export const createRedisEngine = (options: EngineOptions): DedicatedEngine =>
  new DedicatedEngine(redis, options);
