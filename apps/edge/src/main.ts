import { join } from "node:path";
import { openArtifactStore } from "@platform/bundle";
import { createLog, faultPoint, onShutdown, readConfig, runUntilSignal } from "@platform/daemon";
import { authorityName, openAuthority } from "@platform/certificates";
import { sandboxToken, type BoxUpstream } from "@platform/edge-api";
import { Agent } from "undici";
import { RequestLog } from "./access-log/index.ts";
import { EdgeConfig } from "./config.ts";
import { DnsServer } from "./dns/index.ts";
import { Gateway } from "./gateway.ts";
import { BoxPools, ServiceOrigin, ServiceOrigins, Tunnels } from "./proxy/index.ts";
import { LocalCopy, LocalCopyRefused, RouteFeed, RouteTable } from "./routes/index.ts";
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

const config = readConfig(EdgeConfig);
const log = createLog("edge", config.LOG_LEVEL);
const store = await openArtifactStore(config.ARTIFACTS_DIR);
const table = new RouteTable();
const copy = new LocalCopy(config.EDGE_DATA_DIR, config.EDGE_TOKEN);
await restoreRoutes();

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
const tunnels = new Tunnels();
const requestLog = new RequestLog(internal);
const feed = new RouteFeed({ ...internal, edgeId: config.EDGE_ID, table, copy });
const gateway = new Gateway({
  table,
  pools,
  controlPlane,
  services,
  bundles: new StaticBundles(store),
  tunnels,
  wake: new WakeCalls(internal),
  requestLog,
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
issued.onChange((keys) => certificates.forget(issued, keys));
const certificateFeed = new CertificateFeed({ ...internal, edgeId: config.EDGE_ID, issued, challenges });
const server = new EdgeServer({
  gateway,
  tunnels,
  requestLog,
  certificates,
  challenges,
  maxConnections: config.EDGE_MAX_CONNECTIONS,
  log,
});
table.onChange(() => {
  const led = [...upstreams()];
  pools.retain(led, sandboxes());
  tunnels.retain(new Set(led.map(({ boxKey, port }) => `${boxKey}:${port}`)));
  services.retain(serviceUrls());
});

faultPoint("edge.boot.before-listen");
// It serves from the local copy at once, whatever the control plane does.
const port = await server.listen(config.EDGE_LISTEN_PORT);
const tlsPort = config.EDGE_TLS_PORT === undefined ? null : await server.listenTls(config.EDGE_TLS_PORT);
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
certificateFeed.start();
requestLog.start();

// The last registered runs first: requests finish before what serves them goes away.
onShutdown(() => Promise.all([pools.close(), controlPlane.close(), services.close(), dispatcher.destroy()]));
onShutdown(() => Promise.all([feed.stop(), certificateFeed.stop(), requestLog.stop()]));
onShutdown(() => nameServer?.close());
onShutdown(() => server.drain(DRAIN_MS));
runUntilSignal({ graceMs: STOP_MS, parent: true });
process.stdout.write(`${JSON.stringify({ ready: true, port, tlsPort, dnsPort })}\n`);

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
