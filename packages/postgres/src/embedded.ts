import { randomBytes } from "node:crypto";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Client, DatabaseError } from "pg";
import { waitFor, type Log } from "@platform/daemon";
import { defaultPostgres, type PostgresBinaries } from "./binaries.ts";
import { loginOptions } from "./connection-options.ts";
import { makeCluster } from "./initdb.ts";
import { isAlive, type ProcessIdentity } from "./process-identity.ts";
import {
  chownTree,
  freePort,
  isPortFree,
  lastLines,
  runningServer,
  startServer,
  stopServer,
} from "./server-process.ts";
import { lockFolder } from "./supervisor-lock.ts";
import { serverHome } from "./traversable.ts";

/** Numeric user of the control plane's own server: nothing else runs as it, `nobody` included. */
const storeUid = 299_999;
const startTimeoutMs = 60_000;

export interface EmbeddedPostgres {
  /** `postgresql://postgres:…@127.0.0.1:PORT/postgres`; the port stays the same across restarts when it is free. */
  readonly url: string;
  /** Process that serves now: another one after a crash. */
  readonly pid: number;
  /** Stops the server in order and gives the folder free. */
  stop(): Promise<void>;
}

interface Store {
  binaries: PostgresBinaries;
  cluster: string;
  logFile: string;
  portFile: string;
  password: string;
  settings: Record<string, string | number>;
}

/**
 * A real server for the platform's own data, kept alive until `stop`. It outlives a killed
 * supervisor, whose successor on the same folder adopts it. When root, an unprivileged user runs it.
 *
 * @param options.dataDir holds cluster, password, log; below a folder that is closed to other users the
 *   cluster lies in /var/lib/embedded-postgres, named in `dataDir`/location
 * @param options.durable `false` skips fsync: for tests
 * @throws FolderInUseError if another live process supervises `dataDir`
 * @throws PostgresUnavailableError if the programs are missing or do not run
 */
export async function startEmbeddedPostgres(options: {
  dataDir: string;
  log?: Log;
  durable?: boolean;
}): Promise<EmbeddedPostgres> {
  const home = serverHome(options.dataDir);
  const lock = lockFolder(home);
  try {
    const store = await openStore(home, options.durable ?? true);
    let server = (await adopt(store)) ?? (await launch(store));
    const { port } = server;
    options.log?.info({ pid: server.pid, port, home }, "postgres serves");
    let stopping: Promise<void> | null = null;
    const keeper = keepAlive({
      isAlive: () => isAlive(server),
      restart: async () => {
        options.log?.warn(
          { pid: server.pid, tail: lastLines(store.logFile) },
          "postgres ended; starting it again",
        );
        server = await launch(store, port);
      },
      failed: (error) => options.log?.error({ err: error }, "postgres does not start; trying again"),
    });
    return {
      url: `postgresql://postgres:${encodeURIComponent(store.password)}@127.0.0.1:${port}/postgres`,
      get pid() {
        return server.pid;
      },
      stop() {
        stopping ??= keeper
          .end()
          .then(() => stopServer(server))
          .then(() => lock.release());
        return stopping;
      },
    };
  } catch (error) {
    lock.release();
    throw error;
  }
}

async function openStore(home: string, durable: boolean): Promise<Store> {
  const binaries = await defaultPostgres();
  const cluster = join(home, "cluster");
  const password = readOrMakePassword(join(home, "password"), existsSync(cluster));
  await makeCluster(binaries, cluster, password, async (made) => {
    writeFileSync(join(made, "pg_hba.conf"), "host all all 127.0.0.1/32 scram-sha-256\n", { mode: 0o600 });
    if (process.getuid?.() === 0) await chownTree(made, storeUid);
  });
  return {
    binaries,
    cluster,
    password,
    logFile: join(home, "server.log"),
    portFile: join(home, "port"),
    settings: {
      listen_addresses: "127.0.0.1",
      unix_socket_directories: "",
      max_connections: 100,
      shared_buffers: "64MB",
      jit: "off",
      huge_pages: "off",
      io_method: "sync",
      ...(durable ? { fsync: "on" } : { fsync: "off", synchronous_commit: "off", full_page_writes: "off" }),
    },
  };
}

function readOrMakePassword(file: string, hasCluster: boolean): string {
  if (existsSync(file)) return readFileSync(file, "utf8");
  if (hasCluster)
    throw new Error(`${file} is missing, so the server cannot be opened. Put it back from a backup.`);
  const password = randomBytes(24).toString("base64url");
  writeFileSync(`${file}.new`, password, { mode: 0o600, flush: true });
  renameSync(`${file}.new`, file);
  return password;
}

type RunningServer = ProcessIdentity & { port: number };

async function adopt(store: Store): Promise<RunningServer | null> {
  const running = runningServer(store.cluster);
  if (!running) return null;
  try {
    await awaitLogin(store, running);
    return running;
  } catch {
    // It runs but does not let us in, such as one that hangs in a shutdown: a fresh start decides.
    await stopServer(running);
    return null;
  }
}

/** @param fixedPort required port, for a restart under connections that know it; otherwise the last one or any */
async function launch(store: Store, fixedPort?: number): Promise<RunningServer> {
  let lastError: unknown;
  for (let attempt = 0; attempt < 5; attempt++) {
    const port = fixedPort ?? (await choosePort(store.portFile, attempt));
    const identity = await startServer({
      postgres: store.binaries.postgres,
      cluster: store.cluster,
      logFile: store.logFile,
      uid: process.getuid?.() === 0 ? storeUid : null,
      settings: { ...store.settings, port },
    });
    const server = { ...identity, port };
    try {
      await awaitLogin(store, server);
      writeFileSync(store.portFile, String(port), { mode: 0o600 });
      return server;
    } catch (error) {
      lastError = error;
      await stopServer(server);
    }
  }
  throw new Error(
    `Postgres did not start. Its log (${store.logFile}) ends with:\n${lastLines(store.logFile)}`,
    { cause: lastError },
  );
}

async function choosePort(file: string, attempt: number): Promise<number> {
  const last = existsSync(file) ? Number(readFileSync(file, "utf8")) : 0;
  return attempt === 0 && last > 0 && (await isPortFree(last)) ? last : freePort();
}

/** Ready means: a login and a query succeed. Anything but "not yet" ends the wait at once. */
async function awaitLogin(store: Store, server: RunningServer): Promise<void> {
  let refusal: Error | undefined;
  await waitFor(
    "a login to Postgres",
    async () => {
      if (!isAlive(server)) {
        refusal = new Error(`process ${server.pid} ended`);
        return true;
      }
      try {
        await loginOnce(store.password, server.port);
        refusal = undefined;
        return true;
      } catch (error) {
        if (isStarting(error)) return false;
        refusal = error instanceof Error ? error : new Error(String(error));
        return true;
      }
    },
    startTimeoutMs,
    20,
  );
  if (refusal) throw refusal;
}

async function loginOnce(password: string, port: number): Promise<void> {
  const client = new Client(
    loginOptions({ host: "127.0.0.1", port, user: "postgres", password, database: "postgres", ssl: false }),
  );
  client.on("error", () => {
    // The failure reaches the awaited call as well.
  });
  try {
    await client.connect();
    await client.query("select 1");
  } finally {
    await client.end().catch(() => {
      // A connection that failed has nothing left to close.
    });
  }
}

/** Whether a failed login only says that the server is not up yet. */
export function isStarting(error: unknown): boolean {
  if (error instanceof DatabaseError) return error.code === "57P03";
  const { code } = error as NodeJS.ErrnoException;
  return code === "ECONNREFUSED" || code === "ECONNRESET";
}

/** Looks after a process that may not be our child: notices its death and starts it again, with backoff. */
function keepAlive(server: { isAlive(): boolean; restart(): Promise<void>; failed(error: unknown): void }): {
  end(): Promise<void>;
} {
  let ended = false;
  let restarting: Promise<void> | null = null;
  let failures = 0;
  let nextTryAt = 0;
  const timer = setInterval(() => {
    if (ended || restarting || server.isAlive() || performance.now() < nextTryAt) return;
    restarting = server
      .restart()
      .then(() => {
        failures = 0;
      })
      .catch((error: unknown) => {
        nextTryAt = performance.now() + Math.min(30_000, 250 * 2 ** failures++);
        server.failed(error);
      })
      .finally(() => {
        restarting = null;
      });
  }, 200);
  // A program that is done may end although its database still runs.
  timer.unref();
  return {
    async end() {
      ended = true;
      clearInterval(timer);
      await restarting;
    },
  };
}
