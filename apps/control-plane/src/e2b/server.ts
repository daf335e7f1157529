import { allows, PlatformError, type RouteDefinition } from "@platform/contract";
import { unguessableId } from "@platform/daemon";
import { sandboxToken } from "@platform/edge-api";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { AuditEntry, Call, Caller } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { previewDomain, tenantById } from "../tenants/index.ts";
import { buildRoutes } from "./builds.ts";
import { registerFileUploads } from "./copied-files.ts";
import { lifeRoutes } from "./life.ts";
import { observeRoutes } from "./observe.ts";
import { ClientProblem, toClientProblem } from "./problem.ts";
import type { ClientCall, ClientRoute } from "./route.ts";
import { sandboxRoutes } from "./sandboxes.ts";
import { snapshotRoutes } from "./snapshots.ts";
import { templateRoutes } from "./templates.ts";
import { unsupportedRoutes } from "./unsupported.ts";

/** Below this path are the operations inside the server; clients reach them by host name only. */
export const clientApiPrefix = "/e2b";

export const isClientApiHost = (host: string | undefined): boolean => /^api\.sandbox\./i.test(host ?? "");

export interface ClientApiOptions {
  readonly edgeToken: string;
  readonly authenticate: (request: FastifyRequest, route: RouteDefinition) => Promise<Caller>;
  readonly audit: (entry: AuditEntry) => void;
}

const routes: readonly ClientRoute[] = [
  ...sandboxRoutes,
  ...lifeRoutes,
  ...observeRoutes,
  ...snapshotRoutes,
  ...templateRoutes,
  ...buildRoutes,
  ...unsupportedRoutes,
];

/** The control API of the sandbox protocol: the same sandboxes, in another client's words. */
export function registerClientApi(app: FastifyInstance, platform: Platform, options: ClientApiOptions): void {
  void app.register(
    async (scope) => {
      scope.setErrorHandler((error, request, reply) => answerProblem(platform, error, request, reply));
      scope.setNotFoundHandler((request) => {
        throw new ClientProblem(404, `${request.method} ${pathOf(request)} is not part of this API.`);
      });
      scope.get("/health", async (_request, reply) => reply.status(200).send("OK"));
      registerFileUploads(scope, platform);
      for (const route of routes) register(scope, platform, options, route);
    },
    { prefix: clientApiPrefix },
  );
}

const pathOf = (request: FastifyRequest) => request.url.split("?")[0]!.slice(clientApiPrefix.length);

function register(
  scope: FastifyInstance,
  platform: Platform,
  options: ClientApiOptions,
  route: ClientRoute,
): void {
  const definition = definitionOf(route);
  scope.route({
    method: route.method,
    url: definition.path,
    handler: async (request, reply) => {
      const caller = await options.authenticate(request, definition);
      if (route.scope && !allows(caller.scopes, route.scope))
        throw new ClientProblem(403, `This key lacks the scope ${route.scope}. Use a key that has it.`);
      const call = await callOf(platform, options, caller, request, reply);
      const result = await route.handle(call);
      if (reply.statusCode === 200 && route.status) reply.status(route.status);
      if (route.method !== "GET")
        options.audit({
          caller,
          route: definition,
          params: { id: call.params["sandboxID"] ?? "" },
          status: reply.statusCode,
          ip: request.ip,
          resourceId: call.params["sandboxID"] ?? idOf(result),
        });
      if (reply.statusCode === 204) return reply.send();
      return reply.header("content-type", "application/json; charset=utf-8").send(JSON.stringify(result));
    },
  });
}

/** The audit log names changes as those of the platform's own API. */
function definitionOf(route: ClientRoute): RouteDefinition {
  return {
    id: `sandbox-protocol ${route.method} ${route.path}`,
    method: route.method,
    path: route.path.replace(/\{([A-Za-z]+)\}/g, ":$1"),
    summary: "",
    tag: "sandboxes",
    envelope: "raw",
    scope: route.scope,
  };
}

function idOf(result: unknown): string | null {
  const { sandboxID, snapshotID } = (result ?? {}) as { sandboxID?: unknown; snapshotID?: unknown };
  const id = sandboxID ?? snapshotID;
  return typeof id === "string" ? id : null;
}

async function callOf(
  platform: Platform,
  options: ClientApiOptions,
  caller: Caller,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<ClientCall> {
  const gone = new AbortController();
  reply.raw.on("close", () => gone.abort());
  const own = (params: Record<string, string>): Call => ({
    caller,
    params,
    query: undefined,
    body: undefined,
    request,
    reply,
    requestId: request.id,
    idFor: () => unguessableId(),
    signal: gone.signal,
  });
  const host = request.host;
  return {
    platform,
    caller,
    params: request.params as Record<string, string>,
    query: request.query as Record<string, string>,
    body: request.body,
    request,
    reply,
    signal: gone.signal,
    domain: isClientApiHost(host)
      ? host.slice("api.".length)
      : previewDomain((await tenantById(platform.pool, caller.tenantId))!),
    tokens: {
      guest: (id) => sandboxToken(options.edgeToken, "guest", id),
      traffic: (id) => sandboxToken(options.edgeToken, "traffic", id),
    },
    own,
  };
}

function answerProblem(platform: Platform, error: unknown, request: FastifyRequest, reply: FastifyReply) {
  const known = error as { statusCode?: number };
  let status = 500;
  let message = "Something went wrong on our side. Retry; if it stays, send us the request id.";
  if (error instanceof ClientProblem) ({ status, message } = error);
  else if (error instanceof PlatformError) {
    ({ status, message } = toClientProblem(error));
    if (error.retryAfterMs !== undefined) reply.header("retry-after", Math.ceil(error.retryAfterMs / 1000));
  } else if (known.statusCode && known.statusCode >= 400 && known.statusCode < 500) {
    status = known.statusCode;
    message = "The request could not be read. Check method, path and body.";
  }
  if (status === 500)
    platform.log.error({ err: error, requestId: request.id, path: pathOf(request) }, "unexpected failure");
  return reply
    .status(status)
    .header("content-type", "application/json; charset=utf-8")
    .send(JSON.stringify({ code: status, message }));
}
