import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { openArtifactStore } from "@platform/bundle";
import { createLog, faultPoint, onShutdown, readConfig, runUntilSignal } from "@platform/daemon";
import { authorityName, openAuthority } from "@platform/certificates";
import { sandboxToken, type BoxUpstream, type RouteUpdate } from "@platform/edge-api";
import { Agent } from "undici";
import { AccessFile, Metrics, MetricsServer, RequestLog } from "./access-log/index.ts";
import { EdgeConfig } from "./config.ts";
import { connectionsWithin } from "./connections.ts";
import { ConsoleLog } from "./console/index.ts";
import { DnsServer } from "./dns/index.ts";
import { Gateway } from "./gateway.ts";
import { countLines, HaproxyPlane } from "./haproxy/index.ts";
import { BoxPools, ServiceOrigin, ServiceOrigins, Tunnels } from "./proxy/index.ts";
import { Lease, LocalCopy, LocalCopyRefused, RouteFeed, RouteTable } from "./routes/index.ts";
import { EdgeServer } from "./server.ts";
import { StaticBundles } from "./static/index.ts";
import {
  AcmeChallenges,
  CertificateCopy,
  CertificateFeed,
  CertificateRequests,
  CertificateStore,
  DevelopmentCertificates,
  IssuedCertificates,
} from "./tls/index.ts";
import { WakeCalls } from "./wake/index.ts";

const DRAIN_MS = 10_000;
/** Above what requests get to finish in. */
const STOP_MS = DRAIN_MS + 5_000;
/** How long pools of upstreams that no route names any more may stay. */
const RETAIN_AFTER_MS = 1_000;

const config = readConfig(EdgeConfig);
const log = createLog("edge", config.LOG_LEVEL);
const store = await openArtifactStore(config.ARTIFACTS_DIR);
const table = new RouteTable();
const copy = new LocalCopy(config.EDGE_DATA_DIR, config.EDGE_TOKEN);
await restoreRoutes();
let plane: HaproxyPlane | null = null;
const lease = new Lease({
  ...{ edgeId: config.EDGE_ID, hostToken: config.HOST_TOKEN, table, log },
  withdraw: async (hostnames) => plane?.withdraw(hostnames),
});

const dispatcher = new Agent({ connections: 8, pipelining: 1, keepAliveTimeout: 3_000 });
const internal = {
  controlPlaneUrl: config.CONTROL_PLANE_URL,
  token: config.EDGE_TOKEN,
  dispatcher,
  log,
};
const pools = new BoxPools(config.HOST_TOKEN);
const controlPlane = new ServiceOrigin("control-plane", config.CONTROL_PLANE_URL);
const services = new ServiceOrigins();
const maxConnections = Math.min(config.EDGE_MAX_CONNECTIONS, await connectionsWithin());
const tunnels = new Tunnels(maxConnections);
const requestLog = new RequestLog(internal);
const consoleLog = new ConsoleLog(internal);
const accessFile = new AccessFile({
  path: config.EDGE_ACCESS_LOG ?? join(config.EDGE_DATA_DIR, "access.log"),
  log,
});
const metrics = new Metrics([
  { name: "edge_routes", help: "Routes in force.", read: () => table.size },
  { name: "edge_routes_version", help: "Version of the routes in force.", read: () => table.version },
  { name: "edge_lease_seconds", help: "Until the lease ends.", read: () => lease.remainingMs / 1000 },
  { name: "edge_tunnels", help: "Open WebSockets and other upgrades.", read: () => tunnels.size },
  { name: "edge_upstream_pools", help: "Pools of connections to apps.", read: () => pools.size },
  {
    name: "edge_dropped_log_lines",
    help: "Lines of logs lost.",
    read: () => accessFile.dropped + requestLog.dropped + consoleLog.dropped,
  },
  { name: "process_resident_memory_bytes", help: "Memory.", read: () => process.memoryUsage.rss() },
]);
const metricsServer = new MetricsServer(metrics, config.EDGE_METRICS_TOKEN ?? "");
const feed = new RouteFeed({ ...internal, edgeId: config.EDGE_ID, table, copy, lease, inFront });
const gateway = new Gateway({
  table,
  lease,
  pools,
  controlPlane,
  services,
  bundles: new StaticBundles(store, log),
  tunnels,
  wake: new WakeCalls(internal),
  noticed: (hostname, route) => plane?.noticed(hostname, route),
  fronted: () => plane?.size ?? 0,
  requestLog,
  consoleLog,
  sandboxToken: (kind, sandboxId) => sandboxToken(config.EDGE_TOKEN, kind, sandboxId),
  facts: { publicPort: config.PUBLIC_PORT ?? null, trustForwarded: config.TRUST_FORWARDED },
  log,
});
const authority = config.TLS_AUTHORITY_DIR
  ? new DevelopmentCertificates({
      authority: await openAuthority(config.TLS_AUTHORITY_DIR, authorityName(config.TLS_AUTHORITY_NAME)),
      owns: (hostname) => table.domainOf(hostname) ?? table.find(hostname)?.route.hostname ?? null,
    })
  : null;
const challenges = new AcmeChallenges();
const issued = new IssuedCertificates({
  copy: new CertificateCopy(join(config.EDGE_DATA_DIR, "certificates"), config.EDGE_TOKEN, log),
  requests: authority ? null : new CertificateRequests(internal),
  tenantOf: (hostname) => table.find(hostname)?.route.tenantId ?? table.brandOf(hostname)?.tenantId ?? null,
  isRouted: (hostname) => table.at(hostname) !== null,
});
await issued.restore();
const certificates = new CertificateStore(authority ? [issued, authority] : [issued]);
issued.onChange(async (keys) => {
  certificates.forget(issued, keys);
  await plane?.renewed(keys);
});
const certificateFeed = new CertificateFeed({ ...internal, edgeId: config.EDGE_ID, issued, challenges });
const server = new EdgeServer({
  gateway,
  tunnels,
  requestLog,
  accessFile,
  metrics,
  certificates,
  challenges,
  maxConnections,
  servedTls: (hostname) => plane?.noticedTls(hostname),
  log,
});
// Looking through 100,000 routes at each change would hold up the change after it.
let retaining: NodeJS.Timeout | null = null;
table.onChange(() => {
  retaining ??= setTimeout(() => {
    retaining = null;
    const led = [...upstreams()];
    pools.retain(led, sandboxes());
    tunnels.retain(new Set(led.map(({ boxKey, port }) => `${boxKey}:${port}`)));
    services.retain(serviceUrls());
  }, RETAIN_AFTER_MS).unref();
});

faultPoint("edge.boot.before-listen");
// It serves from the local copy at once, whatever the control plane does: the hosts confirm it.
if (table.version > 0) await lease.askHosts();
const { port, tlsPort } = config.EDGE_DATA_PLANE === "haproxy" ? await listenBehind() : await listen();
const nameServer =
  config.ACME_DNS_ZONE === undefined || config.EDGE_DNS_PORT === undefined
    ? null
    : new DnsServer(
        {
          name: config.ACME_DNS_ZONE,
          nameservers: config.ACME_DNS_NAMESERVERS,
          contact: `hostmaster.${config.ACME_DNS_ZONE}`,
          texts: (name) => challenges.dns(name),
        },
        log,
      );
const dnsPort = (await nameServer?.listen(config.EDGE_DNS_PORT!, config.EDGE_DNS_ADDRESS)) ?? null;
feed.start();
lease.start();
certificateFeed.start();
requestLog.start();
consoleLog.start();
accessFile.start();
const metricsPort =
  config.EDGE_METRICS_PORT === undefined ? null : await metricsServer.listen(config.EDGE_METRICS_PORT);

// The last registered runs first: requests finish before what serves them goes away.
onShutdown(() => Promise.all([pools.close(), controlPlane.close(), services.close(), dispatcher.destroy()]));
onShutdown(() =>
  Promise.all([
    feed.stop(),
    lease.stop(),
    certificateFeed.stop(),
    requestLog.stop(),
    consoleLog.stop(),
    accessFile.stop(),
  ]),
);
onShutdown(() => (metricsPort === null ? undefined : metricsServer.close()));
onShutdown(() => nameServer?.close());
onShutdown(() => server.drain(DRAIN_MS));
onShutdown(() => {
  if (!plane) return;
  server.leave();
  return plane.stop();
});
runUntilSignal({ graceMs: STOP_MS, parent: true });
process.stdout.write(`${JSON.stringify({ ready: true, port, tlsPort, dnsPort, metricsPort })}\n`);

function inFront(update: RouteUpdate): Promise<void> {
  return plane?.apply(update) ?? Promise.resolve();
}

async function listen(): Promise<{ port: number; tlsPort: number | null }> {
  const port = await server.listen(config.EDGE_LISTEN_PORT);
  return {
    port,
    tlsPort: config.EDGE_TLS_PORT === undefined ? null : await server.listenTls(config.EDGE_TLS_PORT),
  };
}

/** HAProxy listens, and this program behind it. */
async function listenBehind(): Promise<{ port: number; tlsPort: number | null }> {
  plane = new HaproxyPlane({
    folder: join(config.EDGE_DATA_DIR, "front"),
    port: config.EDGE_LISTEN_PORT,
    tlsPort: config.EDGE_TLS_PORT ?? null,
    certificates,
    maxConnections,
    publicPort: config.PUBLIC_PORT ?? null,
    trustForwarded: config.TRUST_FORWARDED,
    hostToken: config.HOST_TOKEN,
    table,
    isShared: (hostname, route) => gateway.isShared(hostname, route),
    isPlain: (route) => gateway.isPlain(route),
    onLines: countLines({ table, requestLog, accessFile, metrics }),
    onLost: (code) => {
      log.fatal({ code }, "HAProxy ended; this edge ends too, to be started again with it");
      process.exit(1);
    },
    log,
  });
  await mkdir(dirname(plane.socketPath), { recursive: true, mode: 0o700 });
  await server.listenFronted(plane.socketPath);
  if (config.EDGE_TLS_PORT !== undefined) await server.listenTlsFronted(plane.tlsSocketPath);
  return plane.start();
}

async function restoreRoutes(): Promise<void> {
  try {
    const content = await copy.read();
    if (!content) return;
    table.apply({ ...content, full: true, removed: [] });
  } catch (error) {
    if (!(error instanceof LocalCopyRefused)) throw error;
    log.error({ reason: error.message }, "starting without routes");
  }
}

function* upstreams(): IterableIterator<BoxUpstream> {
  for (const { target } of table.routes()) {
    if (target.type !== "boxes" && target.type !== "static") continue;
    for (const one of [target, target.canary?.target, target.fallback?.target])
      if (one?.type === "boxes") yield* one.upstreams;
  }
}

function* sandboxes(): IterableIterator<Omit<BoxUpstream, "port">> {
  for (const { target } of table.routes()) if (target.type === "sandbox") yield target.upstream;
}

function* serviceUrls(): IterableIterator<string> {
  for (const { target } of table.routes()) if (target.type === "service") yield target.url;
}
