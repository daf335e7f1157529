import { createServer, ServerResponse, STATUS_CODES, type IncomingMessage, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { rm } from "node:fs/promises";
import type { AddressInfo, Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { Deadline, unguessableId, waitFor, type Log } from "@platform/daemon";
import type { Route } from "@platform/edge-api";
import type { AccessFile, Metrics, RequestLog } from "./access-log/index.ts";
import { openExchange, type Exchange } from "./exchange.ts";
import type { Gateway } from "./gateway.ts";
import { Http2Front } from "./http2/index.ts";
import { languageFor, negotiate, renderPage, sendPage, type PageKind } from "./pages/index.ts";
import { closeHeader, isFronted, markFronted, type Tunnels } from "./proxy/index.ts";
import { normalizeHostname } from "./routes/index.ts";
import { takeFill } from "./static/index.ts";
import {
  acceptProxied,
  handshakeOptions,
  isChallengeConnection,
  nameClient,
  type AcmeChallenges,
  type CertificateStore,
} from "./tls/index.ts";

const HEADERS_TIMEOUT_MS = 30_000;
/** How late the end of that time may be seen. */
const CHECK_MS = 5_000;
const KEEP_ALIVE_MS = 65_000;
/** The hard limit of the parser lies above our own 64 KiB, so that the page for it can know the Host. */
const PARSER_HEADER_BYTES = 128 * 1024;
const LINGER_MS = 5_000;
const MAX_PATH_LENGTH = 2_048;

const httpOptions = {
  insecureHTTPParser: false,
  requireHostHeader: false,
  maxHeaderSize: PARSER_HEADER_BYTES,
  headersTimeout: HEADERS_TIMEOUT_MS,
  connectionsCheckingInterval: CHECK_MS,
  requestTimeout: 0,
  keepAliveTimeout: KEEP_ALIVE_MS,
  shouldUpgradeCallback: mayUpgrade,
} as const;

export interface ServerOptions {
  readonly gateway: Gateway;
  readonly tunnels: Tunnels;
  readonly requestLog: RequestLog;
  readonly accessFile: AccessFile;
  readonly metrics: Metrics;
  readonly certificates: CertificateStore;
  readonly challenges: AcmeChallenges;
  readonly maxConnections: number;
  /** Hears of names that a certificate was served for. */
  readonly servedTls?: (hostname: string) => void;
  readonly log: Log;
}

/** The listening side: sockets in, exchanges to the gateway, one log line each, drain at the end. */
export class EdgeServer {
  readonly #options: ServerOptions;
  readonly #servers: Server[] = [];
  readonly #http2: Http2Front;
  /** Requests that are being answered, by their connection, or by their stream of it. */
  readonly #active = new Map<object, Exchange>();
  /** Whose connections our own front only passes on. */
  #tls: Server | null = null;
  #isDraining = false;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#http2 = new Http2Front({
      request: (req, res, expectsContinue) => void this.#take(req, res, expectsContinue, null),
      log: options.log,
    });
  }

  /** @returns the port it listens on, on 127.0.0.1 */
  listen(port: number): Promise<number> {
    return this.#listenWith(createServer(httpOptions), port);
  }

  /** On a unix socket for our own front, which tells about the client in headers. */
  async listenFronted(path: string): Promise<void> {
    await rm(path, { force: true });
    const server = createServer(httpOptions);
    server.on("connection", markFronted);
    await this.#listenWith(server, path);
  }

  /** The same under TLS, and HTTP/2 beside HTTP/1.1; the certificate follows the name that the client asks for. */
  listenTls(port: number): Promise<number> {
    return this.#listenWith(this.#tlsServer(), port);
  }

  /** Handshakes that our own front does not answer by itself, each with its client's address before it. */
  async listenTlsFronted(path: string): Promise<void> {
    await rm(path, { force: true });
    const server = this.#tlsServer();
    this.#tls = server;
    acceptProxied(server);
    await this.#listenWith(server, path);
  }

  #tlsServer(): Server {
    const { certificates, challenges, log, servedTls } = this.#options;
    const server = createTlsServer({
      ...httpOptions,
      ...handshakeOptions(certificates, challenges, log, servedTls),
    });
    const [http1] = server.listeners("secureConnection") as [(socket: TLSSocket) => void];
    server.off("secureConnection", http1);
    server.on("secureConnection", (socket) => {
      nameClient(socket);
      if (isChallengeConnection(socket)) socket.end();
      else if (socket.alpnProtocol === "h2") this.#http2.take(socket);
      else http1.call(server, socket);
    });
    // A handshake that fails is the client's matter: a name that is not ours, or an authority it lacks.
    server.on("tlsClientError", (error, socket) => {
      log.debug({ reason: error.message }, "TLS handshake failed");
      socket.destroy();
    });
    return server as unknown as Server;
  }

  async #listenWith(server: Server, at: number | string): Promise<number> {
    server.maxRequestsPerSocket = 0;
    server.maxConnections = this.#options.maxConnections;
    server.on("request", (req, res) => void this.#take(req, res, false, null));
    server.on("checkContinue", (req, res) => void this.#take(req, res, true, null));
    server.on("upgrade", (req, socket, head) => this.#upgrade(req, socket as Socket, head));
    server.on("clientError", (error, socket) => this.#refuse(error, socket as Socket));
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      if (typeof at === "string") server.listen(at, () => resolve());
      else server.listen(at, "127.0.0.1", () => resolve());
    });
    this.#servers.push(server);
    return typeof at === "string" ? 0 : (server.address() as AddressInfo).port;
  }

  /** Has clients go elsewhere with their next request; those of a front that waits for them are still answered. */
  leave(): void {
    this.#isDraining = true;
    this.#http2.drain();
    this.#tls?.closeIdleConnections();
    for (const { res, req } of this.#active.values()) if (!res.headersSent) endWith(res, req);
  }

  /**
   * Takes no new connection, lets requests finish, then breaks what is left: tunnels, which have no
   * end of their own, and requests that took longer.
   *
   * @param graceMs most time for requests to finish, in milliseconds
   */
  async drain(graceMs: number): Promise<void> {
    const closed = Promise.all(
      this.#servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve()))),
    );
    for (const server of this.#servers) server.closeIdleConnections();
    this.leave();
    const deadline = new Deadline(graceMs);
    await waitFor("requests to finish", () => this.#active.size === 0, deadline.remainingMs).catch(() => {
      this.#options.log.warn({ broken: this.#active.size }, "requests were still running after the drain");
    });
    this.#options.tunnels.breakAll();
    this.#http2.destroy();
    for (const server of this.#servers) server.closeAllConnections();
    await closed;
  }

  async #take(
    req: IncomingMessage,
    res: ServerResponse,
    expectsContinue: boolean,
    upgrade: string | null,
  ): Promise<void> {
    const { exchange, malformed } = openExchange(req, res, { expectsContinue, upgrade });
    if (isFronted(req)) exchange.fill = takeFill(exchange);
    this.#active.set(placeOf(req), exchange);
    res.sendDate = false;
    if (this.#isDraining || malformed) endWith(res, req);
    res.on("error", (error) =>
      this.#options.log.debug({ reason: error.message }, "client connection failed"),
    );
    res.once("close", () => this.#finish(exchange));
    res.once("finish", () => this.#linger(exchange));
    if (malformed) {
      sendPage(exchange, malformed, this.#options.gateway.brandOf(exchange.hostname));
      return;
    }
    const proof = this.#options.challenges.http(exchange.hostname, exchange.target);
    if (proof !== null) return sendProof(exchange, proof);
    await this.#options.gateway.serve(exchange);
    // A tunnel has left the response behind, which therefore never closes.
    if (upgrade && res.socket === null && !res.headersSent) this.#finish(exchange, 101);
  }

  #upgrade(req: IncomingMessage, socket: Socket, head: Buffer): void {
    const res = new ServerResponse(req);
    res.shouldKeepAlive = false;
    socket.on("error", () => socket.destroy());
    res.assignSocket(socket);
    res.once("finish", () => {
      res.detachSocket(socket);
      res.emit("close");
      socket.destroySoon();
    });
    if (head.length > 0) socket.unshift(head);
    void this.#take(req, res, false, req.headers.upgrade ?? null);
  }

  /** An answer that came before the whole request: its rest is read for a while, then the connection closes. */
  #linger({ req }: Exchange): void {
    if (req.complete || req.destroyed) return;
    const timer = setTimeout(() => req.socket.destroy(), LINGER_MS);
    req.once("close", () => clearTimeout(timer));
    req.once("end", () => clearTimeout(timer));
    req.resume();
  }

  #finish(exchange: Exchange, upgradedStatus?: number): void {
    const { req, res, requestId, hostname, route } = exchange;
    const place = placeOf(req);
    if (this.#active.get(place) === exchange) this.#active.delete(place);
    // 499: the client left before there was an answer.
    const status = upgradedStatus ?? (res.headersSent ? res.statusCode : 499);
    const path = exchange.target.split("?")[0]!.slice(0, MAX_PATH_LENGTH);
    const durationMs = Math.round((performance.now() - exchange.startedMs) * 1000) / 1000;
    const line = {
      requestId,
      hostname,
      method: req.method ?? "",
      path,
      status,
      durationMs,
      deploymentId: route?.deploymentId ?? null,
      releaseId: route?.releaseId ?? null,
      failedReleaseId: exchange.failedReleaseId,
      sandboxId: route?.sandboxId ?? null,
    };
    const bytes = Math.max(0, (req.socket?.bytesWritten ?? 0) - exchange.bytesWrittenBefore);
    const { accessFile, metrics, requestLog } = this.#options;
    const entry = { at: exchange.startedAt.toISOString(), ...line, bytes };
    accessFile.add({ ...entry, tenantId: route?.tenantId ?? null });
    metrics.add({ tenantId: route?.tenantId ?? null, app: appOf(route), status, durationMs, bytes });
    if (route) requestLog.add(entry);
  }

  /** The parser gave up: there is no request object, only a connection to explain it on. */
  #refuse(error: NodeJS.ErrnoException & { rawPacket?: Buffer }, socket: Socket): void {
    const active = this.#active.get(socket);
    if (!socket.writable || error.code === "ECONNRESET" || active?.res.headersSent) {
      socket.destroy();
      return;
    }
    const raw = error.rawPacket?.toString("latin1") ?? "";
    const host = normalizeHostname(/\r\nhost:[ \t]*([^\r\n]*)/i.exec(raw)?.[1]?.trim() ?? "");
    const kind: PageKind = error.code === "HPE_HEADER_OVERFLOW" ? "headers_too_large" : "bad_request";
    const header = (name: string) => new RegExp(`\\r\\n${name}:[ \\t]*([^\\r\\n]*)`, "i").exec(raw)?.[1];
    const brand = host ? this.#options.gateway.brandOf(host) : null;
    const page = renderPage(negotiate({ headers: { accept: header("accept") }, url: "/" }), {
      kind,
      brand,
      detail: null,
      requestId: unguessableId(),
      language: languageFor(header("accept-language"), brand),
    });
    const status = error.code === "ERR_HTTP_REQUEST_TIMEOUT" ? 408 : page.status;
    let text = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\n`;
    if (isFronted({ socket })) text += `${closeHeader}: 1\r\n`;
    for (const [name, value] of Object.entries(page.headers)) text += `${name}: ${value}\r\n`;
    // Closing over unread bytes would reset the connection, and the answer would be lost with it.
    socket.write(`${text}\r\n`);
    socket.end(page.body);
    socket.resume();
    const timer = setTimeout(() => socket.destroy(), LINGER_MS);
    socket.once("end", () => socket.destroySoon()).once("close", () => clearTimeout(timer));
  }
}

/** The connection ends with this answer. */
function endWith(res: ServerResponse, req: IncomingMessage): void {
  res.shouldKeepAlive = false;
  if (isFronted(req)) res.setHeader(closeHeader, "1");
}

const placeOf = (req: IncomingMessage): object =>
  (req as IncomingMessage & { readonly stream?: object }).stream ?? req.socket;

/** What an authority looks for at a name that it shall certify. */
function sendProof({ req, res }: Exchange, proof: string): void {
  res.writeHead(200, {
    "content-type": "application/octet-stream",
    "cache-control": "no-store",
    "content-length": String(Buffer.byteLength(proof)),
  });
  res.end(req.method === "HEAD" ? undefined : proof);
}

/**
 * Only what can be tunnelled: a bodyless GET, not to HTTP/2. Any other request with an Upgrade header is
 * served as if it had none, as RFC 9110 section 7.8 allows.
 */
function mayUpgrade(req: IncomingMessage): boolean {
  const hasBody =
    req.headers["transfer-encoding"] !== undefined || Number(req.headers["content-length"] ?? 0) > 0;
  const protocol = (req.headers.upgrade ?? "").toLowerCase();
  return req.method === "GET" && !hasBody && protocol !== "" && !/^h2c?\b/.test(protocol);
}

/** Whose series a request counts in. */
export function appOf(route: Route | null): string {
  if (!route) return "none";
  if (route.deploymentId) return `deployment:${route.deploymentId}`;
  return route.sandboxId ? `sandbox:${route.sandboxId}` : route.kind;
}
