import type { Socket } from "node:net";
import type { Log } from "@platform/daemon";
import { guestAgentPort, type Brand, type Route } from "@platform/edge-api";
import type { RequestLog } from "./access-log/index.ts";
import { captureIn, serveConsole, type ConsoleLog } from "./console/index.ts";
import { clientGone, type Exchange } from "./exchange.ts";
import type { AppGuard } from "./firewall/index.ts";
import { acceptsHtml, sendPage, Waits, type PageKind, type Wait } from "./pages/index.ts";
import { accessOf, type Grant } from "./preview-access.ts";
import {
  forward,
  publicDoorHeader,
  schemeOf,
  isTimeout,
  type BoxPools,
  type ForwardedFacts,
  type Origin,
  type Outcome,
  type ServiceOrigin,
  type ServiceOrigins,
  type Tunnels,
} from "./proxy/index.ts";
import { isMachineName, type Lease, type RouteTable, type ServedRoute } from "./routes/index.ts";
import {
  agentAccess,
  answerPreflight,
  answerSandbox,
  interpreterAccess,
  interpreterPort,
  isInterpreterRoute,
  findSandbox,
  isAgentRoute,
  refusalOf,
  sandboxHeaders,
  trafficAccess,
  type SandboxCall,
  type SandboxRefusal,
  type TokenOf,
} from "./sandbox/index.ts";
import { choicesOf, Refusals, type Choice } from "./releases/index.ts";
import { serveStatic, type StaticBundles } from "./static/index.ts";
import type { WakeCalls } from "./wake/index.ts";

const HOLD_MS = 20_000;
const ASK_EVERY_MS = 2_000;
/** How late a refusal to start an app may be seen. */
const LOOK_EVERY_MS = 200;
const MAX_HELD = 2_000;
/** A request that meets a lapsed lease waits this long for it to go on. */
const LEASE_WAIT_MS = 2_000;
/** A front asks every 500 ms and waits 400 ms for the answer: this much must be left. */
const FRONT_LEASE_MS = 1_200;
/** Name under which a supervisor on this machine asks for health. */
const HEALTH_HOSTNAME = "edge.internal";

export interface GatewayParts {
  readonly table: RouteTable;
  readonly lease: Lease;
  readonly pools: BoxPools;
  readonly controlPlane: ServiceOrigin;
  readonly services: ServiceOrigins;
  readonly bundles: StaticBundles;
  readonly tunnels: Tunnels;
  readonly wake: WakeCalls;
  /** Hears of requests that a front of our own could answer by itself. */
  readonly noticed?: (hostname: string, route: Route) => void;
  /** Host names that it answers by itself. */
  readonly fronted?: () => number;
  readonly requestLog: RequestLog;
  readonly consoleLog: ConsoleLog;
  /** Tokens of sandboxes, see `sandboxToken` of the edge's API. */
  readonly sandboxToken: TokenOf;
  readonly facts: ForwardedFacts;
  readonly log: Log;
}

/** Answers requests by what the route table says about their host name. */
export class Gateway {
  readonly #parts: GatewayParts;
  readonly #waits = new Waits();
  readonly #refusals = new Refusals();
  #held = 0;

  constructor(parts: GatewayParts) {
    this.#parts = parts;
  }

  brandOf(hostname: string): Brand | null {
    return this.#parts.table.brandOf(hostname);
  }

  /** Resolves once the answer is complete or given up. Never rejects. */
  async serve(exchange: Exchange): Promise<void> {
    try {
      await this.#serve(exchange);
    } catch (error) {
      const { requestId, hostname } = exchange;
      // A client that left in the middle of a file is no failure of ours.
      if (!exchange.res.destroyed) {
        this.#parts.log.error({ requestId, hostname, err: error }, "request failed");
      }
      if (exchange.res.headersSent) exchange.res.destroy();
      else this.#page(exchange, "error");
    }
  }

  async #serve(exchange: Exchange): Promise<void> {
    const { table } = this.#parts;
    const { hostname } = exchange;
    const sandbox = findSandbox(table, exchange);
    if (sandbox) return this.#serveSandbox(exchange, sandbox);
    const served = table.find(hostname);
    if (served) {
      exchange.route = served.route;
      if (!(await this.#isCovered(exchange, served))) return;
      // It may have moved while the request waited for the lease.
      const now = table.find(hostname) ?? served;
      exchange.route = now.route;
      this.#parts.noticed?.(hostname, now.route);
      await this.#serveTarget(exchange, now);
    } else if (hostname === HEALTH_HOSTNAME && exchange.target === "/lease") {
      const { remainingMs } = this.#parts.lease;
      exchange.res.writeHead(remainingMs > FRONT_LEASE_MS ? 200 : 503, { "content-length": "0" }).end();
    } else if (hostname === HEALTH_HOSTNAME && exchange.target.split("?")[0] === "/healthz") {
      this.#health(exchange);
    } else if (isMachineName(hostname)) {
      await this.#serveService(exchange, this.#parts.controlPlane);
    } else {
      // An edge that never had routes cannot say that a name has none.
      this.#page(exchange, table.version === 0 ? "unavailable" : "not_found");
    }
  }

  /** Whether what the table says may be served; answers if not. The platform's own programs fence themselves. */
  async #isCovered(exchange: Exchange, { route }: ServedRoute): Promise<boolean> {
    const { lease } = this.#parts;
    if (route.target.type === "control-plane" || route.target.type === "service") return true;
    const names = [exchange.hostname, route.hostname.toLowerCase()];
    if (lease.covers(...names)) return true;
    if (this.#held < MAX_HELD) {
      this.#held++;
      try {
        if (await lease.wait(names, LEASE_WAIT_MS, clientGone(exchange))) return true;
      } finally {
        this.#held--;
      }
    }
    this.#page(exchange, "unavailable");
    return false;
  }

  async #serveTarget(exchange: Exchange, served: ServedRoute): Promise<void> {
    const { target } = served.route;
    exchange.guard ??= this.#guardOf(exchange, served.route);
    if (exchange.upgrade && !this.#parts.tunnels.hasRoom(served.route.hostname))
      return this.#page(exchange, "busy");
    if ((target.type === "boxes" || target.type === "wake") && !this.#mayEnter(exchange, target)) return;
    if (await serveConsole(exchange, served.route, this.#parts.consoleLog)) return;
    switch (target.type) {
      case "boxes":
      case "static":
        return this.#serveReleases(exchange, served);
      case "control-plane":
        return this.#serveService(exchange, this.#parts.controlPlane);
      case "service":
        return this.#serveService(exchange, this.#parts.services.origin(target.url));
      case "redirect":
        return this.#redirect(exchange, target.hostname);
      case "hold":
        return this.#serveHeld(exchange);
      case "page":
        return target.page === "starting"
          ? this.#starting(exchange, target.detail, target.since)
          : this.#page(exchange, target.page, target.detail);
      case "wake":
        return this.#serveWake(exchange);
      case "sandbox":
        // Its ports have host names; the name that the table keeps it under is none.
        return this.#page(exchange, "not_found");
    }
  }

  /** A port of a sandbox, or its agent. */
  async #serveSandbox(exchange: Exchange, { sandboxId, port, served }: SandboxCall): Promise<void> {
    const { table, facts, pools, sandboxToken } = this.#parts;
    exchange.route = served?.route ?? null;
    const brand = table.brandOf(exchange.hostname);
    const refuse = (refusal: SandboxRefusal, message?: string) =>
      answerSandbox(exchange, refusal, { sandboxId, port, brand, message });
    if (served?.route.target.type !== "sandbox") return refuse("sandbox_not_found");
    if (!(await this.#isCovered(exchange, served))) return;
    const { target } = served.route;
    exchange.guard ??= this.#guardOf(exchange, served.route);
    if (exchange.upgrade && !this.#parts.tunnels.hasRoom(served.route.hostname))
      return this.#page(exchange, "busy");
    const isAgent = port === guestAgentPort;
    if (isAgent) {
      const path = exchange.target.split("?", 1)[0]!;
      if (exchange.req.method === "OPTIONS") return answerPreflight(exchange);
      if (exchange.upgrade || !isAgentRoute(exchange.req.method ?? "", path)) return refuse("no_route");
      const reason =
        target.guestAccess === "token"
          ? agentAccess(exchange, sandboxToken("guest", sandboxId), Date.now())
          : null;
      if (reason !== null) return refuse("agent_token", reason);
      exchange.res.setHeader("access-control-allow-origin", "*");
    } else if (
      target.trafficAccess === "token" &&
      !trafficAccess(exchange, sandboxToken("traffic", sandboxId))
    ) {
      return refuse("traffic_token");
    }
    const awake = target.state === "running" ? served : await this.#awake(exchange, served.route.hostname);
    if (awake === "busy") return this.#page(exchange, "busy");
    if (!awake && this.#parts.wake.isOverQuota(served.route.hostname))
      return this.#page(exchange, "over_quota");
    if (awake?.route.target.type !== "sandbox") return refuse("sandbox_not_found");
    const { upstream, rewriteHost } = awake.route.target;
    const send = (toAgent: boolean) =>
      forward({
        exchange,
        facts,
        rewriteHost: toAgent ? "sandbox" : (rewriteHost?.replaceAll("${PORT}", String(port)) ?? null),
        dropped: sandboxHeaders,
        added: toAgent ? [publicDoorHeader, "1"] : [],
        origins: () => [pools.origin({ ...upstream, port: toAgent ? "agent" : `any-${port}` })],
        upgrade: exchange.upgrade,
      });
    let outcome = await send(isAgent);
    let refusal = outcome.type === "unsent" ? refusalOf(outcome.error) : null;
    const path = exchange.target.split("?", 1)[0]!;
    // No program of the sandbox's own interprets code: its agent does.
    const isForAgent = refusal === "port_closed" && port === interpreterPort && !exchange.upgrade;
    if (isForAgent && isInterpreterRoute(exchange.req.method ?? "", path)) {
      const reason =
        target.guestAccess === "token"
          ? interpreterAccess(exchange, path, sandboxToken("guest", sandboxId))
          : null;
      if (reason !== null) return refuse("agent_token", reason);
      exchange.target = `/interpreter${exchange.target}`;
      outcome = await send(true);
      refusal = outcome.type === "unsent" ? refusalOf(outcome.error) : null;
    }
    if (refusal) return refuse(refusal);
    this.#conclude(exchange, outcome, "error");
  }

  /** Waits for a paused sandbox that its traffic wakes. Null: it stays as it is. */
  async #awake(exchange: Exchange, routeHostname: string): Promise<ServedRoute | null | "busy"> {
    const { table, wake } = this.#parts;
    const pick = () => {
      const found = table.at(routeHostname);
      return found?.route.target.type === "sandbox" && found.route.target.state === "paused" ? null : found;
    };
    const target = table.at(routeHostname)?.route.target;
    if (target?.type !== "sandbox" || !target.wakes) return null;
    return this.#hold(
      exchange,
      pick,
      () => wake.ask(routeHostname),
      () => wake.isOverQuota(routeHostname),
    );
  }

  /** False when the request was answered here: refused, or sent on with the token kept as a cookie. */
  #mayEnter(
    exchange: Exchange,
    { accessSha256, grants }: { accessSha256: string | null; grants?: readonly Grant[] | undefined },
  ): boolean {
    const { req, res, upgrade, requestId } = exchange;
    // It was let in before it had to wait for the app, and its token is no longer in its address.
    if (exchange.guard?.isAdmitted) return true;
    const keep = req.method === "GET" && acceptsHtml(req) && !upgrade;
    const isSecure = schemeOf(req, this.#parts.facts) === "https";
    const access = accessOf(exchange, accessSha256, { keep, isSecure, grants });
    if (access.type === "denied") this.#page(exchange, "private");
    if (access.type === "keep") {
      res.writeHead(302, {
        location: access.location,
        "set-cookie": access.cookie,
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "content-length": "0",
        "x-request-id": requestId,
      });
      res.end();
    }
    if (access.type !== "granted") return false;
    exchange.target = access.target;
    if (exchange.guard)
      exchange.guard = { ...exchange.guard, tokenProtocol: access.tokenProtocol, isAdmitted: true };
    return true;
  }

  /** Whether the name's neighbours may set cookies for its parent domain. */
  isShared(hostname: string, route: Route): boolean {
    return this.#guardOf({ hostname }, route)?.isShared ?? false;
  }

  /** Whether a front that knows of hosts and headers alone can answer for this route as this one does. */
  isPlain(route: Route): boolean {
    const { target } = route;
    if (target.type === "service") return true;
    if (target.type === "static") return !target.canary && !target.fallback;
    if (target.type !== "boxes" || target.upstreams.length !== 1) return false;
    const isSimple =
      target.rewriteHost === null &&
      target.accessSha256 === null &&
      !target.grants?.length &&
      !target.console;
    const isAlone = !target.canary && !target.fallback && target.webSocketCloseMs === undefined;
    const reserved = this.#guardOf({ hostname: route.hostname }, route)?.reservedCookies ?? [];
    return isSimple && isAlone && reserved.length === 0;
  }

  /** Null for the platform's own programs, whose cookies and headers are theirs. */
  #guardOf({ hostname }: { hostname: string }, route: Route): AppGuard | null {
    const { table } = this.#parts;
    if (route.target.type === "control-plane" || route.target.type === "service") return null;
    return {
      isShared: table.domainOf(hostname) !== null,
      reservedCookies: table.brandOfRoute(route)?.reservedCookies ?? [],
      tokenProtocol: null,
      isAdmitted: false,
    };
  }

  /** Asks one release after the other until one answers. */
  async #serveReleases(exchange: Exchange, served: ServedRoute): Promise<void> {
    const { facts, consoleLog } = this.#parts;
    const main = served.route.target;
    if (main.type !== "boxes" && main.type !== "static") return;
    const key = `${served.route.hostname} ${served.route.releaseId}`;
    const choices = choicesOf(main, key, this.#refusals, exchange, facts);
    for (const [index, choice] of choices.entries()) {
      const { target, releaseId } = choice;
      exchange.route = releaseId === null ? served.route : { ...served.route, releaseId };
      if (target.type === "static") return this.#serveStatic(exchange, target);
      const outcome = await forward({
        exchange,
        facts,
        rewriteHost: main.type === "boxes" ? main.rewriteHost : null,
        origins: this.#originsOf(exchange, served, choice),
        upgrade: exchange.upgrade,
        refusesErrors: choice.refusesErrors && index < choices.length - 1,
        rewrite: captureIn(exchange, served.route, {
          scheme: schemeOf(exchange.req, facts),
          log: consoleLog,
        }),
      });
      if (releaseId === null && outcome.type === "unsent") this.#refusals.note(key);
      else if (releaseId === null) this.#refusals.forget(key);
      const isLast = index === choices.length - 1 || !(await mayAskAnother(exchange, outcome));
      const closeMs = main.type === "boxes" ? main.webSocketCloseMs : undefined;
      if (isLast) return this.#conclude(exchange, outcome, "error", closeMs);
      exchange.failedReleaseId ??= exchange.route?.releaseId ?? null;
    }
  }

  /** Those of the main release are read again each time: its route may have moved. */
  #originsOf(exchange: Exchange, served: ServedRoute, choice: Choice): () => readonly Origin[] {
    const { table, pools } = this.#parts;
    return () => {
      const now = choice.releaseId === null ? (table.find(exchange.hostname) ?? served) : served;
      const current = choice.releaseId === null ? now.route.target : choice.target;
      if (current.type !== "boxes") return [];
      const first = now.cursor++ % current.upstreams.length;
      const ordered = [...current.upstreams.slice(first), ...current.upstreams.slice(0, first)];
      if (choice.releaseId === null) exchange.route = now.route;
      return ordered.map((upstream) => pools.origin(upstream));
    };
  }

  /** The Host header stays: what the program answers, and a signature over it, depend on it. */
  async #serveService(exchange: Exchange, origin: ServiceOrigin): Promise<void> {
    const { facts } = this.#parts;
    const outcome = await forward({
      exchange,
      facts,
      rewriteHost: null,
      origins: () => [origin],
      upgrade: exchange.upgrade,
    });
    // Unsent: the caller may safely repeat it, and is told so.
    this.#conclude(exchange, outcome, outcome.type === "unsent" ? "unavailable" : "error");
  }

  #conclude(exchange: Exchange, outcome: Outcome, failure: PageKind, webSocketCloseMs?: number): void {
    const { log, tunnels } = this.#parts;
    if (outcome.type === "upgraded") {
      const client = exchange.req.socket as Socket;
      exchange.res.detachSocket(client);
      const isWebSocket = exchange.upgrade?.toLowerCase() === "websocket";
      tunnels.join(client, outcome.socket, {
        app: exchange.route?.hostname ?? "",
        origin: outcome.origin ?? null,
        closeMs: isWebSocket ? (webSocketCloseMs ?? null) : null,
      });
      return;
    }
    if (outcome.type === "done" || outcome.type === "client-gone") return;
    const { requestId, hostname } = exchange;
    const { error } = outcome;
    const code = (error as { code?: string }).code ?? error.name;
    log.warn({ requestId, hostname, outcome: outcome.type, code, reason: error.message }, "upstream failed");
    if (outcome.type === "cut") return;
    if (code === "UND_ERR_INVALID_ARG" || code === "UND_ERR_NOT_SUPPORTED")
      this.#page(exchange, "bad_request");
    else this.#page(exchange, isTimeout(error) ? "timeout" : failure);
  }

  async #serveStatic(exchange: Exchange, target: { digest: string; spaFallback: boolean }): Promise<void> {
    const result = await serveStatic(exchange, this.#parts.bundles, target);
    if (result === "missing") this.#page(exchange, "file_not_found");
    else if (result === "refused") this.#page(exchange, "bad_request");
    else if (result === "method_not_allowed") this.#page(exchange, "method_not_allowed");
  }

  /** 308 keeps method and body. Scheme and port stay as the client used them. */
  #redirect(exchange: Exchange, hostname: string): void {
    const { res, host, target } = exchange;
    const scheme = schemeOf(exchange.req, this.#parts.facts);
    const port = /:\d{1,5}$/.exec(host)?.[0] ?? "";
    res.writeHead(308, {
      location: `${scheme}://${hostname}${port}${target}`,
      "cache-control": "max-age=300",
      "content-length": "0",
      "x-request-id": exchange.requestId,
    });
    res.end();
  }

  /**
   * A browser gets a page that reloads itself. Anyone else cannot be told to come back so easily:
   * the request waits for the app.
   */
  async #serveWake(exchange: Exchange): Promise<void> {
    const { wake, table } = this.#parts;
    const { hostname, req } = exchange;
    wake.ask(hostname);
    // The next visit asks again.
    if (wake.isOverQuota(hostname)) return this.#page(exchange, "over_quota");
    if (req.method === "GET" && acceptsHtml(req) && !exchange.upgrade) return this.#starting(exchange);
    const pick = () => {
      const found = table.find(hostname);
      if (!found) return null;
      const { target } = found.route;
      const isPending = target.type === "wake" || (target.type === "page" && target.page === "starting");
      return isPending ? null : found;
    };
    const isRefused = () => wake.isOverQuota(hostname);
    const served = await this.#hold(exchange, pick, () => wake.ask(hostname), isRefused);
    if (served === "busy") return this.#page(exchange, "busy");
    if (!served) return this.#page(exchange, isRefused() ? "over_quota" : "starting");
    exchange.route = served.route;
    return this.#serveTarget(exchange, served);
  }

  /** Waits for the route to lead somewhere again. */
  async #serveHeld(exchange: Exchange): Promise<void> {
    const pick = () => {
      const found = this.#parts.table.find(exchange.hostname);
      return found?.route.target.type === "hold" ? null : found;
    };
    const served = await this.#hold(exchange, pick, () => undefined);
    if (served === "busy" || !served) return this.#page(exchange, served === "busy" ? "busy" : "maintenance");
    exchange.route = served.route;
    return this.#serveTarget(exchange, served);
  }

  /** Holds a request until `pick` finds what it waits for; null when that takes too long. */
  async #hold(
    exchange: Exchange,
    pick: () => ServedRoute | null,
    ask: () => void,
    isRefused: () => boolean = () => false,
  ): Promise<ServedRoute | null | "busy"> {
    if (this.#held >= MAX_HELD) return "busy";
    ask();
    const refused = new AbortController();
    const asking = setInterval(ask, ASK_EVERY_MS);
    const looking = setInterval(() => isRefused() && refused.abort(), LOOK_EVERY_MS);
    this.#held++;
    try {
      const until = AbortSignal.any([clientGone(exchange), refused.signal]);
      return await this.#parts.table.waitUntil(pick, HOLD_MS, until);
    } finally {
      clearInterval(looking);
      this.#held--;
      clearInterval(asking);
    }
  }

  #health({ res }: Exchange): void {
    const { table, lease, requestLog, pools, tunnels } = this.#parts;
    const hasLease = lease.remainingMs > 0;
    const body = JSON.stringify({
      ok: hasLease,
      lease: hasLease,
      withdrawn: lease.withdrawn,
      version: table.version,
      routes: table.size,
      pools: pools.size,
      tunnels: tunnels.size,
      fronted: this.#parts.fronted?.() ?? 0,
      droppedLogEntries: requestLog.dropped,
    });
    // A balancer in front takes an edge without lease out.
    res.writeHead(hasLease ? 200 : 503, {
      "content-type": "application/json",
      "content-length": String(body.length),
    });
    res.end(body);
  }

  /** The page that waits for an app, until it gives up. */
  #starting(exchange: Exchange, detail: string | null = null, since?: number): void {
    const wait = this.#waits.look(exchange.hostname, Date.now(), since);
    const failure = wait.isOver ? this.#parts.wake.failureOf(exchange.hostname) : null;
    this.#page(exchange, wait.isOver ? "start_failed" : "starting", failure ?? detail, wait);
  }

  #page(exchange: Exchange, kind: PageKind, detail: string | null = null, wait: Wait | null = null): void {
    const { table } = this.#parts;
    const brand = exchange.route ? table.brandOfRoute(exchange.route) : null;
    sendPage(exchange, kind, brand ?? table.brandOf(exchange.hostname), detail, wait);
  }
}

/** Nothing was done yet, or doing it again is harmless. */
async function mayAskAnother(exchange: Exchange, outcome: Outcome): Promise<boolean> {
  if (outcome.type === "unsent" || outcome.type === "refused") return true;
  if (outcome.type !== "unanswered" || isTimeout(outcome.error)) return false;
  return (await exchange.body)?.replayable ?? false;
}
