import { connect, createServer, type Server, type Socket } from "node:net";
import type { AppliedConfig, GuestLink } from "@platform/guest-protocol";
import { splice } from "./splice.ts";

/** Most time that the host may take to open a link, in milliseconds. */
const CONNECT_TIMEOUT_MS = 30_000;
const MAX_HEAD_BYTES = 16 * 1024;

interface Door {
  /** Same text, same door: decides what is opened and closed on a change. */
  readonly id: string;
  readonly port: number;
  readonly serve: (client: Socket) => void;
}

/** Ports on 127.0.0.1 that lead out of the box, through the host's proxy on a unix socket. */
export class Outbound {
  readonly #outboundPath: string;
  readonly #open = new Map<string, { server: Server; clients: Set<Socket> }>();
  #turn: Promise<unknown> = Promise.resolve();

  constructor(outboundPath: string) {
    this.#outboundPath = outboundPath;
  }

  /** Opens and closes ports until exactly these are open; connections of doors that stay live on. */
  apply(proxyPort: number | null, links: readonly GuestLink[]): Promise<AppliedConfig> {
    const result = this.#turn.then(() => this.#apply(proxyPort, links));
    this.#turn = result.catch(() => undefined);
    return result;
  }

  async #apply(proxyPort: number | null, links: readonly GuestLink[]): Promise<AppliedConfig> {
    const doors: Door[] = links.map(({ host, port }) => ({
      id: `${host}:${port}`,
      port,
      serve: (client) => this.#serveLink(client, host, port),
    }));
    if (proxyPort !== null) {
      doors.push({ id: `proxy:${proxyPort}`, port: proxyPort, serve: (client) => this.#serveProxy(client) });
    }
    for (const [id, { server, clients }] of this.#open) {
      if (doors.some((door) => door.id === id)) continue;
      this.#open.delete(id);
      const closed = new Promise((resolve) => server.close(resolve));
      for (const client of clients) client.destroy();
      await closed;
    }
    const listeners: { port: number; error: string | null }[] = [];
    for (const door of doors) listeners.push({ port: door.port, error: await this.#openDoor(door) });
    return { listeners };
  }

  async #openDoor(door: Door): Promise<string | null> {
    if (this.#open.has(door.id)) return null;
    const clients = new Set<Socket>();
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (client) => {
      clients.add(client);
      client.on("close", () => clients.delete(client));
      client.on("error", () => client.destroy());
      door.serve(client);
    });
    try {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(door.port, "127.0.0.1", resolve);
      });
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EADDRINUSE") return `port ${door.port} is taken by another program or link in the box`;
      return `port ${door.port} cannot be opened: ${code}`;
    }
    this.#open.set(door.id, { server, clients });
    return null;
  }

  #serveProxy(client: Socket): void {
    const upstream = connect({ path: this.#outboundPath, allowHalfOpen: true });
    upstream.once("error", () => client.resetAndDestroy());
    upstream.once("connect", () => splice(client, upstream));
  }

  #serveLink(client: Socket, host: string, port: number): void {
    const upstream = connect({ path: this.#outboundPath, allowHalfOpen: true });
    // A reset, so that a database driver sees a refusal and not an empty answer.
    const refuse = () => {
      upstream.destroy();
      client.resetAndDestroy();
    };
    const timer = setTimeout(refuse, CONNECT_TIMEOUT_MS);
    const target = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
    let head = Buffer.alloc(0);
    const onData = (chunk: Buffer) => {
      head = Buffer.concat([head, chunk]);
      const end = head.indexOf("\r\n\r\n");
      if (end < 0) {
        if (head.length > MAX_HEAD_BYTES) refuse();
        return;
      }
      settle();
      if (!/^HTTP\/1\.[01] 200 /.test(head.toString("latin1", 0, 13))) {
        refuse();
        return;
      }
      upstream.pause();
      if (head.length > end + 4) upstream.unshift(head.subarray(end + 4));
      splice(client, upstream);
    };
    const settle = () => {
      clearTimeout(timer);
      upstream.off("data", onData).off("end", refuse).off("close", refuse);
    };
    client.once("close", () => {
      clearTimeout(timer);
      if (!client.readableEnded) upstream.destroy();
    });
    upstream.on("error", refuse);
    upstream.on("data", onData).on("end", refuse).on("close", refuse);
    upstream.write(`CONNECT ${target} HTTP/1.1\r\nhost: ${target}\r\n\r\n`);
  }
}
