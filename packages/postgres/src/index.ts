export { startEmbeddedPostgres, isStarting, type EmbeddedPostgres } from "./embedded.ts";
export { createPool, query, queryOne, transaction, type PoolOptions, type Queryable } from "./pool.ts";
export { listen } from "./listen.ts";
export { migrate, type Migration } from "./migrate.ts";
export {
  withLease,
  assertLease,
  leaseMigration,
  LeaseLostError,
  type Lease,
  type LeaseResult,
} from "./lease.ts";
export { loginOptions, parsePostgresUrl, type LoginParts } from "./connection-options.ts";
export { lockFolder, FolderInUseError } from "./supervisor-lock.ts";
export {
  preparePostgres,
  PostgresUnavailableError,
  serverEnvironment,
  type PostgresBinaries,
} from "./binaries.ts";
export { makeCluster } from "./initdb.ts";
export { identify, isAlive, type ProcessIdentity } from "./process-identity.ts";
export {
  startServer,
  stopServer,
  runningServer,
  freePort,
  isPortFree,
  chownTree,
  lastLines,
  type ServerStart,
} from "./server-process.ts";
export { closedFolder, serverHome } from "./traversable.ts";
