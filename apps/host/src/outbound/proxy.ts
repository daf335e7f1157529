import { createServer, request, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { constants } from "node:fs";
import { open, rm, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { HostError, type BoxLink, type EgressPolicy, type ResolvedBoxSpec } from "@platform/host-api";
import type { BoxFolders } from "../drivers/driver.ts";
import { networkRateOf, pacesOf, type Paces } from "../http/pace.ts";
import { splice } from "../http/splice.ts";
import { checkRanges } from "./policy.ts";
import {
  dialTarget,
  OutboundRefusal,
  parseTarget,
  settleTarget,
  type OutboundTarget,
  type Place,
  type ResolveDatabase,
  type ResolveName,
} from "./target.ts";

/** What a box tried to reach; the newest are kept. */
export interface OutboundAttempt {
  readonly at: string;
  readonly host: string;
  readonly port: number;
  /** `ALLOWED` or the code of the refusal. */
  readonly outcome: string;
}

/** What of a box concerns its way out. */
export type OutboundSpec = Pick<ResolvedBoxSpec, "limits" | "egress" | "links">;

export interface Resolvers {
  readonly name: ResolveName;
  readonly database: ResolveDatabase;
}

const maxTunnels = 256;
const maxAttempts = 500;
const idleTimeoutMs = 10 * 60_000;

/** Headers that belong to one connection and end here. */
const hopHeaders = new Set(
  "connection proxy-connection keep-alive proxy-authorization te trailer transfer-encoding upgrade".split(
    " ",
  ),
);

/** Connections that are open under one budget, by all boxes of this host. */
type Spent = Map<string, number>;

export class OutboundFactory {
  readonly #resolvers: Resolvers;
  readonly #spent: Spent = new Map();
  constructor(resolvers: Resolvers) {
    this.#resolvers = resolvers;
  }

  /** @throws HostError `INVALID` when the policy cannot be read */
  async open(key: string, spec: OutboundSpec, folders: Pick<BoxFolders, "run">): Promise<OutboundProxy> {
    const proxy = new OutboundProxy(key, spec, this.#resolvers, this.#spent);
    await proxy.listen(folders);
    return proxy;
  }
}

/** The only way out of one box: an HTTP proxy on a unix socket in the box's run folder. */
export class OutboundProxy {
  readonly key: string;
  readonly attempts: OutboundAttempt[] = [];
  readonly counters = { sentBytes: 0, receivedBytes: 0 };
  readonly #resolvers: Resolvers;
  readonly #server: Server;
  #folder: FileHandle | null = null;
  readonly #open = new Set<Socket>();
  readonly #paces: Paces;
  #dialling = 0;
  #rules: { egress: EgressPolicy; links: readonly BoxLink[] };

  readonly #spent: Spent;

  constructor(key: string, spec: OutboundSpec, resolvers: Resolvers, spent: Spent) {
    this.key = key;
    this.#spent = spent;
    this.#paces = pacesOf(networkRateOf(spec.limits));
    this.#resolvers = resolvers;
    this.#rules = checked(spec);
    this.#server = createServer({ requestTimeout: 0, keepAliveTimeout: 5_000 }, (incoming, response) => {
      void this.#forward(incoming, response);
    });
    this.#server.maxConnections = maxTunnels * 2;
    this.#server.on("connect", (incoming: IncomingMessage, client: Socket, head: Buffer) => {
      void this.#tunnel(incoming.url ?? "", client, head);
    });
    this.#server.on("clientError", (_error, socket) => socket.destroy());
  }

  /** For connections made from now on. */
  configure(spec: OutboundSpec): void {
    this.#rules = checked(spec);
  }

  /**
   * Only the box's own uid and root may enter the run folder, so the socket itself is open to all.
   * A chmod after the fact would follow a link that the box put in its place.
   */
  async listen(folders: Pick<BoxFolders, "run">): Promise<void> {
    await rm(join(folders.run, "outbound.sock"), { force: true });
    // A socket's path has at most 107 characters; by the folder's handle it is always short. The handle
    // stays open as long as the server, which unlinks the socket by that path when it closes.
    this.#folder = await open(folders.run, constants.O_RDONLY | constants.O_DIRECTORY);
    const path = `/proc/self/fd/${this.#folder.fd}/outbound.sock`;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once("error", reject);
    const before = process.umask(0);
    try {
      this.#server.listen({ path }, resolve);
    } finally {
      process.umask(before);
    }
    await promise;
  }

  async close(): Promise<void> {
    for (const socket of this.#open) socket.destroy();
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    await this.#folder?.close();
    this.#folder = null;
  }

  async #dial(target: OutboundTarget): Promise<Socket> {
    if (this.#open.size + this.#dialling >= maxTunnels) {
      throw new OutboundRefusal("TOO_MANY_CONNECTIONS", 503, `More than ${maxTunnels} connections are open.`);
    }
    this.#dialling += 1;
    let socket: Socket;
    try {
      const place = await settleTarget(target, this.#rules, this.#resolvers);
      const giveBack = this.#spend(place);
      socket = await dialTarget(place).catch((error: unknown) => {
        giveBack();
        throw error;
      });
      socket.once("close", giveBack);
    } finally {
      this.#dialling -= 1;
    }
    this.#open.add(socket);
    socket.setTimeout(idleTimeoutMs, () => socket.destroy());
    socket.once("close", () => {
      this.#open.delete(socket);
      this.counters.sentBytes += socket.bytesWritten;
      this.counters.receivedBytes += socket.bytesRead;
    });
    return socket;
  }

  /** @returns what ends it. @throws OutboundRefusal `TOO_MANY_CONNECTIONS` */
  #spend({ budget }: Place): () => void {
    if (!budget) return () => undefined;
    const { key, most } = budget;
    const open = this.#spent.get(key) ?? 0;
    if (open >= most) {
      const message = `Previews have ${most} direct connections to this database open, as many as they may. Use the pooled URL.`;
      throw new OutboundRefusal("TOO_MANY_CONNECTIONS", 503, message);
    }
    this.#spent.set(key, open + 1);
    return () => {
      const left = (this.#spent.get(key) ?? 1) - 1;
      if (left > 0) this.#spent.set(key, left);
      else this.#spent.delete(key);
    };
  }

  async #reach(target: OutboundTarget | null): Promise<Socket> {
    if (!target)
      throw new OutboundRefusal("INVALID", 400, "The target must be a name or address and a port.");
    try {
      const socket = await this.#dial(target);
      this.#note(target, "ALLOWED");
      return socket;
    } catch (error) {
      this.#note(target, error instanceof OutboundRefusal ? error.code : "INTERNAL");
      throw error;
    }
  }

  #note(target: OutboundTarget, outcome: string): void {
    this.attempts.push({ at: new Date().toISOString(), host: target.host, port: target.port, outcome });
    if (this.attempts.length > maxAttempts) this.attempts.shift();
  }

  async #tunnel(target: string, client: Socket, head: Buffer): Promise<void> {
    client.on("error", () => client.destroy());
    try {
      const upstream = await this.#reach(parseTarget(target));
      if (client.destroyed) {
        upstream.destroy();
        return;
      }
      client.write("HTTP/1.1 200 Connection established\r\n\r\n");
      if (head.length > 0) upstream.write(head);
      splice(upstream, client, this.#paces);
    } catch (error) {
      const { status, body } = explain(error);
      client.end(
        `HTTP/1.1 ${status} Refused\r\ncontent-type: application/json\r\n` +
          `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
      );
    }
  }

  /** Plain `GET http://name/path`, for programs that do not tunnel unencrypted requests. */
  async #forward(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    let upstream: Socket | null = null;
    try {
      const url = URL.parse(incoming.url ?? "");
      const target = url?.protocol === "http:" ? parseTarget(url.host, 80) : null;
      const socket = await this.#reach(target);
      upstream = socket;
      const headers = incoming.headersDistinct as Record<string, string[]>;
      const kept = Object.entries(headers).filter(([name]) => !hopHeaders.has(name));
      const call = request({
        createConnection: () => socket,
        method: incoming.method,
        path: `${url?.pathname}${url?.search}`,
        headers: { ...Object.fromEntries(kept), host: url?.host, connection: "close" },
      });
      const answered = new Promise<IncomingMessage>((resolve, reject) => {
        call.once("response", resolve);
        call.once("error", reject);
      });
      const [answer] = await Promise.all([answered, pipeline(incoming, this.#paces.outOf.stream(), call)]);
      const answerHeaders = Object.entries(answer.headersDistinct).filter(([name]) => !hopHeaders.has(name));
      response.writeHead(
        answer.statusCode ?? 502,
        Object.fromEntries(answerHeaders) as Record<string, string[]>,
      );
      await pipeline(answer, this.#paces.into.stream(), response);
    } catch (error) {
      if (response.headersSent) {
        response.destroy();
        return;
      }
      const { status, body } = explain(error);
      response.writeHead(status, { "content-type": "application/json", connection: "close" }).end(body);
    } finally {
      upstream?.destroy();
    }
  }
}

function checked(spec: OutboundSpec) {
  try {
    checkRanges(spec.egress);
  } catch (cause) {
    throw new HostError("INVALID", 400, (cause as Error).message, {}, { cause });
  }
  return { egress: spec.egress, links: spec.links };
}

function explain(error: unknown): { status: number; body: string } {
  const known = error instanceof OutboundRefusal;
  const code = known ? error.code : "UNREACHABLE";
  const message = known ? error.message : "The connection to the target broke off.";
  return { status: known ? error.status : 502, body: JSON.stringify({ error: { code, message } }) };
}
