import { totalmem } from "node:os";
import { z } from "zod";
import {
  clearInheritedPostgresSettings,
  createLog,
  onShutdown,
  readConfig,
  runUntilSignal,
} from "@platform/daemon";
import { HostClient } from "@platform/host-api";
import { createPool, migrate } from "@platform/postgres";
import { AuditWriter } from "./audit/index.ts";
import { createApp, createReconcilers, ensureApiRoute } from "./app.ts";
import { AcmeConfig, readAcmeSettings } from "./certificates/index.ts";
import { runChores } from "./background.ts";
import { ensureClientApiRoutes } from "./e2b/index.ts";
import { ensureBootstrapKey } from "./keys/index.ts";
import type { Platform } from "./platform.ts";
import { appear } from "./presence.ts";
import { migrations } from "./schema.ts";
import { createSeal } from "./seal.ts";
import { Signals } from "./signals.ts";
import { ensureTenant, tenantById } from "./tenants/index.ts";
import { WebhookWorker } from "./webhooks/index.ts";
import { PricesSetting } from "./prices.ts";

clearInheritedPostgresSettings();

const Config = z.object({
  CONTROL_PLANE_PORT: z.coerce.number().int().min(0).max(65_535).default(0),
  DATABASE_URL: z.string().min(1),
  HOST_URL: z.string().min(1),
  HOST_TOKEN: z.string().min(1),
  EDGE_TOKEN: z.string().min(16),
  /** Where the control plane reaches an edge to prove public host names; the supervisor's own edge. */
  EDGE_URL: z.string().optional(),
  ENCRYPTION_KEY: z.string().regex(/^[0-9a-f]{64}$/i, "64 hexadecimal digits"),
  TENANT_DOMAIN: z.string().default("cliniciq.localhost"),
  TENANT_NAME: z.string().default("ClinicIQ"),
  PUBLIC_SCHEME: z.enum(["http", "https"]).default("http"),
  PUBLIC_PORT: z.coerce.number().int().optional(),
  DATABASE_HOSTNAME: z.string().default("127.0.0.1"),
  INSTANCE_MEMORY_BYTES: z.coerce
    .number()
    .int()
    .default(8 * 1024 ** 3),
  BUILD_MEMORY_BYTES: z.coerce
    .number()
    .int()
    .min(64 * 1024 ** 2)
    .default(8 * 1024 ** 3),
  /** Of the build command, milliseconds. */
  BUILD_TIMEOUT_MS: z.coerce
    .number()
    .int()
    .min(1000)
    .default(20 * 60_000),
  /** `address:port`; the machine's own resolvers by default. */
  DNS_RESOLVER: z.string().min(1).optional(),
  /** Between two points of a sandbox's metrics, milliseconds. */
  METRICS_EVERY_MS: z.coerce.number().int().min(500).default(30_000),
  /** Between two logins that prove a database, milliseconds. */
  CANARY_EVERY_MS: z.coerce.number().int().min(200).max(60_000).default(30_000),
  /** Cents an hour, as JSON. */
  PRICES: PricesSetting,
  OBJECT_STORE_URL: z.string().optional(),
  OBJECT_STORE_TOKEN: z.string().optional(),
  /** true: webhooks may lead to private and loopback addresses. For development on one machine. */
  WEBHOOK_ALLOW_PRIVATE: z.stringbool().default(false),
  /** Comma-separated DNS servers that verify domains, such as 127.0.0.1:5353. */
  DNS_SERVERS: z.string().optional(),
  BOOTSTRAP_KEY_FILE: z.string().optional(),
  LOG_LEVEL: z.string().default("info"),
  ...AcmeConfig.shape,
});

const config = readConfig(Config);
const log = createLog("control-plane", config.LOG_LEVEL);
if (config.INSTANCE_MEMORY_BYTES > totalmem())
  log.warn(
    { limit: config.INSTANCE_MEMORY_BYTES, machine: totalmem() },
    "this machine has less memory than the limit of one production instance",
  );

const dnsServers =
  config.DNS_SERVERS?.split(",")
    .map((server) => server.trim())
    .filter(Boolean) ?? null;
const pool = createPool(config.DATABASE_URL, { max: 40 });
onShutdown(() => pool.end());
await migrate(pool, migrations);

const stopping = new AbortController();
const signals = new Signals(pool);
const presence = await appear(pool, stopping.signal);
const host = new HostClient({ url: config.HOST_URL, token: config.HOST_TOKEN });
const publicPort = config.PUBLIC_PORT ?? null;
const platform: Platform = {
  log,
  pool,
  host,
  seal: createSeal(config.ENCRYPTION_KEY),
  signals,
  holder: presence.holder,
  settings: {
    publicScheme: config.PUBLIC_SCHEME,
    publicPort,
    databaseHostname: config.DATABASE_HOSTNAME,
    instanceMemoryBytes: config.INSTANCE_MEMORY_BYTES,
    buildMemoryBytes: config.BUILD_MEMORY_BYTES,
    buildTimeoutMs: config.BUILD_TIMEOUT_MS,
    edgeUrl: config.EDGE_URL ?? `http://127.0.0.1:${publicPort ?? 80}`,
    sampleEveryMs: config.METRICS_EVERY_MS,
    dnsResolver: config.DNS_RESOLVER ?? dnsServers?.[0] ?? null,
    acme: readAcmeSettings(config),
    canaryEveryMs: config.CANARY_EVERY_MS,
    prices: config.PRICES,
    objectStore: config.OBJECT_STORE_URL
      ? { url: config.OBJECT_STORE_URL, token: config.OBJECT_STORE_TOKEN ?? "" }
      : null,
  },
};

const tenantId = await ensureTenant(pool, { name: config.TENANT_NAME, domain: config.TENANT_DOMAIN });
if (config.BOOTSTRAP_KEY_FILE) await ensureBootstrapKey(pool, tenantId, config.BOOTSTRAP_KEY_FILE);
await ensureApiRoute(platform, (await tenantById(pool, tenantId))!);
await ensureClientApiRoutes(platform);

const audit = new AuditWriter(platform);
const webhooks = new WebhookWorker(platform, { allowPrivate: config.WEBHOOK_ALLOW_PRIVATE });
const app = createApp(platform, {
  edgeToken: config.EDGE_TOKEN,
  audit: audit.audit,
  tenancy: {
    webhookAllowPrivate: config.WEBHOOK_ALLOW_PRIVATE,
    dnsServers: dnsServers ?? (config.DNS_RESOLVER ? [config.DNS_RESOLVER] : null),
  },
});
await app.listen({ host: "127.0.0.1", port: config.CONTROL_PLANE_PORT });
const listening = signals.connect(config.DATABASE_URL, stopping.signal);
const reconcilers = createReconcilers(platform);
for (const reconciler of reconcilers) reconciler.start();
audit.start();
webhooks.start();
const chores = runChores(platform, stopping.signal);

onShutdown(() => host.close());
onShutdown(async () => {
  stopping.abort();
  await Promise.allSettled([
    app.close(),
    listening,
    chores,
    webhooks.stop(),
    presence.ended,
    ...reconcilers.map((reconciler) => reconciler.stop()),
  ]);
  // Last, when no request can add to it any more.
  await audit.stop();
});
runUntilSignal({ parent: true });

const address = app.server.address();
process.stdout.write(
  `${JSON.stringify({ ready: true, port: typeof address === "object" && address ? address.port : config.CONTROL_PLANE_PORT })}\n`,
);
