import type { WakeAnswer } from "@platform/edge-api";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { queryOne, transaction } from "@platform/postgres";
import { certificateHandlers, createCertificateStep, registerCertificateFeed } from "./certificates/index.ts";
import { CronScheduler, cronHandlers } from "./cron/index.ts";
import {
  createArchiveStep,
  createBackupStep,
  createDatabaseStep,
  databaseAccessHandlers,
  databaseHandlers,
  onAttach,
  onRenewal,
} from "./databases/index.ts";
import {
  configurationChanged,
  createDeploymentStep,
  deploymentHandlers,
  rolloutHandlers,
  releaseArtifactHandlers,
  uploadHandlers,
  wakeDeployment,
  deploymentObserveHandlers,
} from "./deployments/index.ts";
import { deviceHandlers } from "./devices/index.ts";
import { domainHandlers } from "./domains/index.ts";
import { clientApiPrefix, isClientApiHost, registerClientApi } from "./e2b/index.ts";
import { assertEdge, putRoute, registerEdgeRoutes } from "./edges/index.ts";
import { egressHandlers } from "./egress/index.ts";
import { eventHandlers, platformEventHandlers } from "./events/index.ts";
import { auditHandlers } from "./audit/index.ts";
import { exportHandlers } from "./exports/index.ts";
import { groupHandlers } from "./groups/index.ts";
import { createServer, registerPublicPages, type AuditEntry, type Handler } from "./http/index.ts";
import { createAuthenticator, keyHandlers, scopedTokenHandlers, ticketHandlers } from "./keys/index.ts";
import type { Platform } from "./platform.ts";
import { isLimit, policyHandlers } from "./policies/index.ts";
import { consoleHandlers, previewHandlers, shareHandlers, storeConsole } from "./previews/index.ts";
import { Reconciler } from "./reconcile/index.ts";
import { createBuildStep } from "./releases/index.ts";
import {
  createSandboxStep,
  execHandlers,
  fileHandlers,
  loadSandbox,
  runHandlers,
  sandboxEnvHandlers,
  sandboxHandlers,
  sandboxObserveHandlers,
  serviceHandlers,
  renewEnvironment,
  syncEnvironment,
  templateStartHandlers,
  wake,
  type SandboxRow,
} from "./sandboxes/index.ts";
import { SandboxSampler } from "./sandboxes/index.ts";
import { runtimeEnvHandlers } from "./runtime-env/index.ts";
import { snapshotHandlers } from "./snapshots/index.ts";
import { storageHandlers, storageRoutes } from "./storage/index.ts";
import { createTemplateBuildStep, templateHandlers } from "./templates/index.ts";
import {
  apiHostname,
  assetHandlers,
  brandingHandlers,
  brandOf,
  projectHandlers,
  publicUrl,
  registerAssets,
  tenantByHostname,
  tenantDomainHandlers,
  tenantHandlers,
  workspaceHandlers,
  type Tenant,
} from "./tenants/index.ts";
import { terminalHandlers } from "./terminals/index.ts";
import { resourceHandlers } from "./resources/index.ts";
import { usageHandlers } from "./usage/index.ts";
import { agentToolHandlers } from "./agent-tools/index.ts";
import { webhookHandlers } from "./webhooks/index.ts";

export interface TenancySettings {
  /** Lets webhooks lead to private and loopback addresses: for development on one machine. */
  readonly webhookAllowPrivate: boolean;
  /** DNS servers that verify domains, such as 127.0.0.1:5353; null: the machine's own. */
  readonly dnsServers: readonly string[] | null;
}

function tenancyHandlers(platform: Platform, settings: TenancySettings): Handler[] {
  return [
    ...tenantHandlers(platform),
    ...workspaceHandlers(platform),
    ...policyHandlers(platform),
    ...projectHandlers(platform),
    ...brandingHandlers(platform),
    ...assetHandlers(platform),
    ...tenantDomainHandlers(platform, settings),
    ...keyHandlers(platform),
    ...scopedTokenHandlers(platform),
    ...webhookHandlers(platform, { allowPrivate: settings.webhookAllowPrivate }),
    ...platformEventHandlers(platform),
    ...usageHandlers(platform),
    ...resourceHandlers(platform),
    ...auditHandlers(platform),
    ...runtimeEnvHandlers(platform),
    ...egressHandlers(platform),
  ];
}

export function allHandlers(platform: Platform, settings: TenancySettings): Handler[] {
  return [
    ...tenancyHandlers(platform, settings),
    ...ticketHandlers(platform),
    ...eventHandlers(platform),
    ...templateHandlers(platform),
    ...sandboxHandlers(platform),
    ...sandboxEnvHandlers(platform),
    ...execHandlers(platform),
    ...serviceHandlers(platform),
    ...fileHandlers(platform),
    ...sandboxObserveHandlers(platform),
    ...templateStartHandlers(platform),
    ...runHandlers(platform),
    ...groupHandlers(platform),
    ...exportHandlers(platform),
    ...agentToolHandlers(platform),
    ...terminalHandlers(platform),
    ...snapshotHandlers(platform),
    ...previewHandlers(platform),
    ...shareHandlers(platform),
    ...consoleHandlers(platform),
    ...databaseHandlers(platform),
    ...databaseAccessHandlers(platform),
    ...deploymentHandlers(platform),
    ...rolloutHandlers(platform),
    ...uploadHandlers(platform),
    ...releaseArtifactHandlers(platform),
    ...deploymentObserveHandlers(platform),
    ...storageHandlers(platform),
    ...cronHandlers(platform),
    ...domainHandlers(platform),
    ...certificateHandlers(platform),
  ];
}

/** The public server with the edges' internal addresses. */
export function createApp(
  platform: Platform,
  options: { edgeToken: string; audit: (entry: AuditEntry) => void; tenancy: TenancySettings },
): FastifyInstance {
  const own = allHandlers(platform, options.tenancy);
  const handlers = [...own, ...deviceHandlers(own)];
  const routes = handlers.map((one) => one.route);
  const authenticate = createAuthenticator(platform);
  const tenantOf = async (request: FastifyRequest): Promise<Tenant | null> =>
    (await tenantByHostname(platform.pool, request.hostname)) ??
    (await queryOne<Tenant>(platform.pool, "select * from tenants order by created_at limit 1"));
  // The origin as the client sees it: behind the edge the Host header is the public one.
  const origin = (request: FastifyRequest) => `${request.protocol}://${request.host}`;
  const app = createServer({
    log: platform.log,
    pool: platform.pool,
    holder: platform.holder,
    seal: platform.seal,
    handlers,
    mountOf: (host) => (isClientApiHost(host) ? clientApiPrefix : null),
    authenticate,
    problemsUrl: (request) => `${origin(request)}/problems`,
    audit: options.audit,
  });
  registerPublicPages(app, {
    routes,
    site: async (request) => {
      const tenant = await tenantOf(request);
      const brand = tenant ? brandOf(tenant) : null;
      return {
        name: brand?.name ?? "API",
        color: brand?.colorPrimary ?? "#2563eb",
        apiUrl: tenant ? publicUrl(platform.settings, apiHostname(tenant)) : origin(request),
      };
    },
  });
  registerAssets(app, platform);
  registerClientApi(app, platform, { edgeToken: options.edgeToken, authenticate, audit: options.audit });
  registerEdgeRoutes(app, platform, options.edgeToken, {
    wake: (hostname) => wakeByHostname(platform, hostname),
    console: (batches) => storeConsole(platform, batches),
  });
  registerCertificateFeed(app, platform, {
    edgeToken: options.edgeToken,
    acme: platform.settings.acme ?? null,
    assertEdge: (request) => assertEdge(request, options.edgeToken),
  });
  return app;
}

/** Traffic to the preview of a paused sandbox, or to a deployment that sleeps, wakes it. */
async function wakeByHostname(platform: Platform, hostname: string): Promise<WakeAnswer> {
  const route = await queryOne<{ sandbox_id: string | null; deployment_id: string | null }>(
    platform.pool,
    "select sandbox_id, deployment_id from routes where hostname = $1",
    [hostname],
  );
  if (route?.deployment_id) await wakeDeployment(platform, route.deployment_id);
  const row = route?.sandbox_id ? await loadSandbox(platform.pool, route.sandbox_id) : null;
  try {
    if (row && row.state === "paused") await wake(platform, row);
  } catch (error) {
    if (!isLimit(error)) throw error;
    return { refused: "over_quota" };
  }
  return {};
}

/** Something that works in the background until it is stopped. */
export interface Worker {
  start(): void;
  stop(): Promise<void>;
}

export function createReconcilers(platform: Platform): Worker[] {
  onAttach("sandbox", async (_platform, owner) => {
    const row = (await loadSandbox(platform.pool, owner.id)) as SandboxRow;
    await syncEnvironment(platform, row);
  });
  onRenewal("sandbox", async (_platform, owner) => {
    const row = (await loadSandbox(platform.pool, owner.id)) as SandboxRow;
    await renewEnvironment(platform, row);
  });
  onAttach("deployment", (_platform, owner) => configurationChanged(platform, owner.id));
  return [
    new Reconciler(platform, {
      table: "sandboxes",
      due: "state <> 'destroyed'",
      concurrency: 16,
      step: createSandboxStep(platform),
    }),
    new Reconciler(platform, {
      table: "databases",
      due: "state <> 'deleted'",
      concurrency: 8,
      step: createDatabaseStep(platform),
    }),
    new Reconciler(platform, {
      table: "database_backups",
      due: "state in ('pending', 'running', 'completed', 'damaged') or (state = 'failed' and parts is null)",
      concurrency: 2,
      step: createBackupStep(platform),
    }),
    new Reconciler(platform, {
      table: "database_archives",
      due: "true",
      concurrency: 4,
      step: createArchiveStep(platform),
    }),
    new Reconciler(platform, {
      table: "builds",
      due: "state in ('queued', 'building')",
      concurrency: 2,
      step: createBuildStep(platform),
    }),
    new Reconciler(platform, {
      table: "template_builds",
      due: "state not in ('ready', 'failed', 'cancelled')",
      concurrency: 4,
      step: createTemplateBuildStep(platform),
    }),
    new Reconciler(platform, {
      table: "deployments",
      due: "state <> 'deleted'",
      concurrency: 8,
      step: createDeploymentStep(platform),
    }),
    ...(platform.settings.acme
      ? [
          new Reconciler(platform, {
            table: "certificates",
            due: "source = 'acme' and removed_at is null",
            concurrency: 4,
            step: createCertificateStep(platform, platform.settings.acme),
          }),
        ]
      : []),
    new CronScheduler(platform),
    new SandboxSampler(platform),
  ];
}

/** The host names of the API and of object storage are routes like any other. */
export async function ensureApiRoute(platform: Platform, tenant: Tenant): Promise<void> {
  await transaction(platform.pool, async (db) => {
    await putRoute(db, {
      hostname: apiHostname(tenant),
      tenantId: tenant.id,
      kind: "api",
      target: { type: "control-plane" },
    });
    for (const route of storageRoutes(platform.settings, tenant)) await putRoute(db, route);
  });
}
