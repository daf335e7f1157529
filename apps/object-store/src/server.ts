import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createPool, migrate } from "@platform/postgres";
import type { Log } from "@platform/daemon";
import { handleAdmin } from "./admin.ts";
import { DiskBlobs, type Blobs } from "./blobs.ts";
import { findKnownBlobs } from "./bucket-index.ts";
import { type Gateway, virtualBucket } from "./call.ts";
import { applyLifecycle } from "./lifecycle.ts";
import { migrations } from "./migrations.ts";
import { handleS3 } from "./s3.ts";
import { createSealer } from "./secrets.ts";
import { UpstreamBlobs, type UpstreamSettings } from "./upstream-blobs.ts";

export interface ObjectStoreOptions {
  /** 0 takes any free port. */
  port: number;
  dataDir: string;
  databaseUrl: string;
  token: string;
  /** 32 bytes. */
  encryptionKey: Buffer;
  region: string;
  /** Where content is kept instead of in the data folder. */
  upstream: UpstreamSettings | null;
  log: Log;
}

export interface ObjectStore {
  port: number;
  close(): Promise<void>;
}

/** Younger files may belong to an upload whose row is on its way. */
const orphanAgeMs = 3_600_000;
/** Between two looks at what has come to its end. */
const tidyMs = 15 * 60_000;

/** Listens on 127.0.0.1 once the schema is in place. */
export async function startObjectStore(options: ObjectStoreOptions): Promise<ObjectStore> {
  const { log } = options;
  const pool = createPool(options.databaseUrl, {
    applicationName: "object-store",
    onError: (error) => log.warn({ err: error }, "database connection lost"),
  });
  await migrate(pool, migrations);
  const blobs: Blobs = options.upstream
    ? await UpstreamBlobs.open(options.upstream)
    : await DiskBlobs.open(options.dataDir);
  const removed = await blobs.sweep(Date.now() - orphanAgeMs, (names) => findKnownBlobs(pool, names));
  if (removed > 0) log.info({ removed }, "removed what an earlier crash left");
  const sealer = createSealer(options.encryptionKey);
  const gateway: Gateway = { pool, blobs, sealer, region: options.region, now: Date.now };
  const stopTidying = tidyRegularly(gateway, log);
  const server = createServer();
  const handle = (mustContinue: boolean) => (request: IncomingMessage, response: ServerResponse) => {
    // What came through an edge is a client's, whatever its path looks like.
    const isForwarded = request.headers["x-forwarded-host"] !== undefined;
    const isInternal =
      !isForwarded && /^\/internal(\/|$|\?)/.test(request.url ?? "") && virtualBucket(request) === null;
    void (isInternal
      ? handleAdmin(gateway, options, request, response, mustContinue)
      : handleS3(gateway, log, request, response, mustContinue));
  };
  server.on("request", handle(false));
  server.on("checkContinue", handle(true));
  // An upload of 5 GiB may take long; a silent connection is what has to end.
  server.requestTimeout = 0;
  server.headersTimeout = 30_000;
  server.on("connection", (socket) => socket.setTimeout(120_000, () => socket.destroy()));
  const port = await listen(server, options.port);
  return {
    port,
    close: () =>
      close(server)
        .finally(stopTidying)
        .finally(() => pool.end()),
  };
}

/** @returns ends it, once a run that has begun is over */
function tidyRegularly(gateway: Gateway, log: Log): () => Promise<void> {
  let running = Promise.resolve();
  const tidy = async () => {
    try {
      const removed = await applyLifecycle(gateway, gateway.now());
      if (removed > 0) log.info({ removed }, "removed what lifecycle rules and time ended");
    } catch (error) {
      log.error({ err: error }, "lifecycle rules could not be applied; the next run tries again");
    }
  };
  const start = () => (running = running.then(tidy));
  void start();
  const timer = setInterval(start, tidyMs);
  return () => {
    clearInterval(timer);
    return running;
  };
}

function listen(server: Server, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => {
      const address = server.address();
      if (typeof address === "object" && address) resolve(address.port);
    });
  });
}

/** Lets running requests end; idle connections are closed. */
function close(server: Server): Promise<void> {
  return new Promise((resolve, reject) => {
    server.close((error) => (error ? reject(error) : resolve()));
    server.closeIdleConnections();
  });
}
