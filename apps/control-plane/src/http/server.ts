import type { Readable } from "node:stream";
import { finished } from "node:stream/promises";
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from "fastify";
import { z } from "zod";
import { newId, unguessableId, type Log } from "@platform/daemon";
import { PlatformError, allows, notFound, toProblemBody, type RouteDefinition } from "@platform/contract";
import { GuestError } from "@platform/guest-protocol";
import { HostError } from "@platform/host-api";
import type { Pool } from "pg";
import type { Seal } from "../seal.ts";
import type { Call, Caller, Handler } from "./context.ts";
import { isUnstorable, parseJson } from "./json-body.ts";
import { acceptUpgrades } from "./upgrade.ts";
import { derivedId, hashBody, runOnce, type StoredAnswer } from "./idempotency.ts";

export interface ServerOptions {
  readonly log: Log;
  /** Seals stored answers. */
  readonly seal: Seal;
  readonly pool: Pool;
  /** Name of this process in locks. */
  readonly holder: string;
  readonly handlers: readonly Handler[];
  /** @throws PlatformError UNAUTHENTICATED, INVALID_TENANT_CONTEXT, RATE_LIMITED */
  readonly authenticate: (request: FastifyRequest, route: RouteDefinition) => Promise<Caller>;
  /** URL of the problem pages as this request's tenant sees them. */
  readonly problemsUrl: (request: FastifyRequest) => string;
  /** Below which path requests for a host name are served, when not below /api/v1; null: as usual. */
  readonly mountOf?: (host: string) => string | null;
  /** Called after each change that succeeded. */
  readonly audit: (entry: AuditEntry) => void;
}

export interface AuditEntry {
  readonly caller: Caller;
  readonly route: RouteDefinition;
  readonly params: Record<string, string>;
  readonly status: number;
  readonly ip: string;
  readonly resourceId: string | null;
}

const prefix = "/api/v1";
const outside = /^\/(health|openapi\.json|docs|problems|internal|webhook-inbox)(\/|\?|$)/;
const bodyLimitBytes = 64 * 1024 * 1024;

/** Clients disagree whether their base URL ends in /api/v1; both forms reach the same route. */
export function normaliseUrl(url: string): string {
  let path = url.replace(/^\/{2,}/, "/");
  while (path.startsWith(prefix + prefix)) path = path.slice(prefix.length);
  if (path.startsWith(prefix)) {
    const rest = path.slice(prefix.length) || "/";
    if (/^\/(\?|$)/.test(rest)) return "/";
    return outside.test(rest) && !/^\/(docs)/.test(rest) ? rest : path;
  }
  return outside.test(path) || path === "/" ? path : prefix + path;
}

/** A request id from outside is kept only when it cannot be used to forge log lines. */
function requestIdOf(headers: Record<string, string | string[] | undefined>): string {
  const given = headers["x-request-id"];
  return typeof given === "string" && /^[\w.-]{1,128}$/.test(given) ? given : newId();
}

export function createServer(options: ServerOptions): FastifyInstance {
  const app = Fastify({
    loggerInstance: undefined,
    logger: false,
    bodyLimit: bodyLimitBytes,
    genReqId: (request) => requestIdOf(request.headers),
    rewriteUrl: (request) => {
      // Behind the edge, as `trustProxy` below has it: nobody else reaches this port.
      const host = request.headers["x-forwarded-host"] ?? request.headers.host ?? "";
      const mount = options.mountOf?.(String(host)) ?? null;
      return mount === null ? normaliseUrl(request.url ?? "/") : mount + (request.url ?? "/");
    },
    routerOptions: { maxParamLength: 4096, ignoreTrailingSlash: true },
    trustProxy: "127.0.0.1",
    // Above what the edge lets through: a refusal here would close a connection that the edge keeps.
    http: { maxHeaderSize: 128 * 1024 },
    forceCloseConnections: true,
  });
  app.removeContentTypeParser("application/json");
  app.addContentTypeParser("application/json", { parseAs: "string" }, (_request, text, done) => {
    if (text === "") return done(null, undefined);
    try {
      done(null, parseJson(text as string));
    } catch (error) {
      done(error as Error, undefined);
    }
  });
  app.addContentTypeParser("*", (_request, payload, done) => done(null, payload));
  app.addHook("onSend", (request, reply, payload, done) => {
    reply.header("x-request-id", request.id);
    // An app under the same domain must not put these pages, where keys are shown, into a frame of its own.
    reply.header("x-frame-options", "DENY");
    if (!reply.hasHeader("content-security-policy"))
      reply.header("content-security-policy", "frame-ancestors 'none'");
    done(null, payload);
  });
  app.setNotFoundHandler((request) => {
    throw new PlatformError(
      "NOT_FOUND",
      `${request.method} ${request.url.split("?")[0]} is not part of this API. See /docs.`,
    );
  });
  app.setErrorHandler(async (error, request, reply) => {
    const problem = toPlatformError(error, request.body);
    if (problem.code === "PAYLOAD_TOO_LARGE") {
      reply.removeHeader("connection");
      await drain(request.raw);
    }
    if (problem.code === "INTERNAL")
      options.log.error(
        { err: error, requestId: request.id, path: request.url.split("?")[0] },
        "unexpected failure",
      );
    const body = toProblemBody(problem, options.problemsUrl(request), request.id);
    if (problem.retryAfterMs !== undefined)
      reply.header("retry-after", Math.ceil(problem.retryAfterMs / 1000));
    return reply
      .status(problem.status)
      .header("content-type", "application/json; charset=utf-8")
      .send(JSON.stringify(body));
  });
  acceptUpgrades(app);
  for (const one of options.handlers) if (!one.route.bytes) register(app, one, options);
  // Bytes are never parsed, whatever content type they claim to have.
  void app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser("*", (_request, payload, done) => done(null, payload));
    for (const one of options.handlers) if (one.route.bytes) register(scope, one, options);
  });
  return app;
}

/**
 * Reads the rest of a refused body: who still sends would else lose the connection, and with it the
 * refusal. Ends early when far more comes than any client means to send.
 */
async function drain(body: Readable): Promise<void> {
  let left = 4 * bodyLimitBytes;
  body.on("data", (chunk: Buffer) => {
    left -= chunk.length;
    if (left < 0) body.destroy();
  });
  await finished(body.resume(), { writable: false }).catch(() => undefined); // The sender went away.
}

function toPlatformError(error: unknown, body: unknown): PlatformError {
  if (error instanceof PlatformError) return error;
  const known = error as { code?: string; statusCode?: number };
  if (known.code === "FST_ERR_CTP_BODY_TOO_LARGE") {
    return new PlatformError(
      "PAYLOAD_TOO_LARGE",
      `The body is over ${bodyLimitBytes / 1024 / 1024} MiB. Send it in parts.`,
    );
  }
  if (known.code === "FST_ERR_CTP_INVALID_MEDIA_TYPE")
    return new PlatformError("VALIDATION_FAILED", "Send the body as application/json.");
  if (known.code && isUnstorable(known.code, body)) {
    return new PlatformError(
      "VALIDATION_FAILED",
      "The request holds a null character or text that is not Unicode. Remove it.",
      { cause: error },
    );
  }
  if (isAway(error)) {
    return new PlatformError(
      "SANDBOX_AGENT_UNAVAILABLE",
      "The machine or the sandbox does not answer now. Retry in two seconds.",
      { retryAfterMs: 2000, cause: error },
    );
  }
  if (known.statusCode && known.statusCode >= 400 && known.statusCode < 500) {
    return new PlatformError(
      "VALIDATION_FAILED",
      "The request could not be read. Check method, path and body.",
      { cause: error },
    );
  }
  return new PlatformError(
    "INTERNAL",
    "Something went wrong on our side. Retry; if it stays, send us the request id.",
    { cause: error },
  );
}

/** A machine that is restarting, or a box that ended a moment ago and is being looked at. */
const isAway = (error: unknown): boolean =>
  (error instanceof HostError || error instanceof GuestError) &&
  ["UNREACHABLE", "BOX_PAUSED", "BOX_FAILED", "GUEST_UNAVAILABLE"].includes(error.code);

/** Absent and null mean the same to the published clients. */
function withoutNulls(body: unknown): unknown {
  if (body === null || typeof body !== "object" || Array.isArray(body)) return body ?? undefined;
  return Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null));
}

function parse<T>(schema: z.ZodType | undefined, value: unknown): T {
  if (!schema) return undefined as T;
  const result = schema.safeParse(value);
  if (result.success) return result.data as T;
  const errors: Record<string, string[]> = {};
  for (const issue of result.error.issues)
    (errors[issue.path.join(".") || "body"] ??= []).push(issue.message);
  const first = Object.entries(errors)[0]!;
  throw new PlatformError(
    "VALIDATION_FAILED",
    `${first[0]}: ${first[1][0]}. Correct the fields named in errors.`,
    { errors },
  );
}

function register(app: FastifyInstance, { route, handle }: Handler, options: ServerOptions): void {
  app.route({
    method: route.method,
    url: prefix + route.path,
    exposeHeadRoute: route.method === "GET" && route.envelope !== "raw",
    handler: async (request, reply) => {
      const caller = await options.authenticate(request, route);
      if (route.scope && !allows(caller.scopes, route.scope)) {
        throw new PlatformError(
          "FORBIDDEN",
          `This key lacks the scope ${route.scope}. Use a key that has it.`,
          { details: { required_scope: route.scope } },
        );
      }
      const body = route.bytes ? undefined : withoutNulls(request.body);
      const key = request.headers["idempotency-key"];
      const hasKey = typeof key === "string" && key !== "" && request.method !== "GET";
      const path = request.url.split("?")[0]!;
      const idFor = (what: string) =>
        hasKey ? derivedId(caller.tenantId, key, request.method, path, what) : unguessableId();
      const gone = new AbortController();
      reply.raw.on("close", () => gone.abort());
      const call: Call = {
        caller,
        params: request.params as Record<string, string>,
        query: parse(route.query, request.query),
        body: parse(route.body, body),
        request,
        reply,
        requestId: request.id,
        idFor,
        signal: gone.signal,
      };
      const isChange = request.method !== "GET";
      if (!hasKey || route.envelope === "raw") {
        const result = await handle(call);
        if (isChange)
          options.audit({
            caller,
            route,
            params: call.params,
            status: reply.statusCode,
            ip: request.ip,
            resourceId: idOf(result),
          });
        return send(reply, route, result);
      }
      const slot = {
        tenantId: caller.tenantId,
        key: key.slice(0, 512),
        method: request.method,
        path,
        bodyHash: hashBody(body),
      };
      let ran = false;
      const answer = await runOnce(options, slot, async () => {
        ran = true;
        return capture(call, route, handle, options, request);
      });
      if (ran)
        options.audit({
          caller,
          route,
          params: call.params,
          status: answer.status,
          ip: request.ip,
          resourceId: idInBody(answer.body),
        });
      for (const [name, value] of Object.entries(answer.headers)) reply.header(name, value);
      return reply
        .status(answer.status)
        .header("content-type", "application/json; charset=utf-8")
        .send(answer.body);
    },
  });
}

function idOf(result: unknown): string | null {
  const id = (result as { id?: unknown } | null | undefined)?.id;
  return typeof id === "string" ? id : null;
}

function idInBody(body: string): string | null {
  const answer = JSON.parse(body) as { data?: unknown } | null;
  return idOf(answer) ?? idOf(answer?.data);
}

function wrap(route: RouteDefinition, result: unknown): unknown {
  return route.envelope === "data" ? { data: result ?? {} } : (result ?? {});
}

function send(reply: FastifyReply, route: RouteDefinition, result: unknown): FastifyReply | undefined {
  if (reply.sent || route.envelope === "raw") return reply;
  if (route.status && reply.statusCode === 200) reply.status(route.status);
  return reply
    .header("content-type", "application/json; charset=utf-8")
    .send(JSON.stringify(wrap(route, result)));
}

/** The answer as it will be stored and replayed; refusals are answers too. */
async function capture(
  call: Call,
  route: RouteDefinition,
  handle: Handler["handle"],
  options: ServerOptions,
  request: FastifyRequest,
): Promise<StoredAnswer & { keep: boolean }> {
  try {
    const result = await handle(call);
    const status = call.reply.statusCode === 200 ? (route.status ?? 200) : call.reply.statusCode;
    const wait = call.reply.getHeader("x-miosa-wait");
    return {
      status,
      body: JSON.stringify(wrap(route, result)),
      headers: wait ? { "x-miosa-wait": String(wait) } : {},
      keep: true,
    };
  } catch (error) {
    if (!(error instanceof PlatformError) || error.status >= 500 || error.isRetryable)
      throw await released(error, options, call, request);
    return {
      status: error.status,
      body: JSON.stringify(toProblemBody(error, options.problemsUrl(request), call.requestId)),
      headers: {},
      keep: true,
    };
  }
}

/** Frees the key so that a retry runs, then lets the error through. */
async function released(
  error: unknown,
  options: ServerOptions,
  call: Call,
  request: FastifyRequest,
): Promise<unknown> {
  await options.pool.query(
    `delete from idempotency where tenant_id = $1 and key = $2 and method = $3 and path = $4 and status is null`,
    [
      call.caller.tenantId,
      String(request.headers["idempotency-key"]).slice(0, 512),
      request.method,
      request.url.split("?")[0],
    ],
  );
  return error;
}

export { notFound };
