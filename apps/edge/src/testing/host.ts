import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import {
  connect,
  createServer as createNetServer,
  type AddressInfo,
  type Server as NetServer,
  type Socket,
} from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";

export const HOST_TOKEN = "host-token-for-tests-0001";

/** The border of a host: `CONNECT box:port` with the bearer token, then raw bytes to a local server. */
export class Host {
  /** `box:port` → local port of the app that plays the box's port. */
  readonly ports = new Map<string, number>();
  dials = 0;
  /** `box:port` → how often it was dialled, refused or not. */
  readonly dialled = new Map<string, number>();
  /** Answers of `GET /fences`: what an edge must not serve. */
  standing = { version: 0, hostnames: [] as string[] };
  /** `applied` of each question for it. */
  readonly asked: number[] = [];
  readonly #sockets = new Set<Duplex>();
  readonly #doors: NetServer[] = [];
  readonly #doorPaths = new Map<string, string>();
  #folder: string | null = null;
  #port = 0;
  #server = createServer();

  /** Listens, on the same port as before if it did already. */
  async start(): Promise<void> {
    this.#server = createServer((req, res) => {
      const url = new URL(req.url ?? "/", "http://host");
      if (url.pathname === "/doors") {
        void this.#door(req, res);
        return;
      }
      if (url.pathname !== "/fences") {
        res.writeHead(404).end();
        return;
      }
      const applied = Number(url.searchParams.get("applied"));
      this.asked.push(applied);
      const free = { version: 0, hostnames: [] };
      res.setHeader("content-type", "application/json");
      res.end(JSON.stringify(applied < this.standing.version ? this.standing : free));
    });
    this.#server.on("connect", (req, client, head) => {
      this.#sockets.add(client);
      client.on("error", () => client.destroy());
      const refuse = (status: number, code: string) => {
        const body = JSON.stringify({ error: { code, message: `${code} at ${req.url}` } });
        client.end(`HTTP/1.1 ${status} No\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
      };
      if (req.headers.authorization !== `Bearer ${HOST_TOKEN}`) return refuse(401, "UNAUTHORIZED");
      this.dialled.set(req.url ?? "", (this.dialled.get(req.url ?? "") ?? 0) + 1);
      const port = this.ports.get(req.url ?? "");
      if (port === undefined) return refuse(404, "NOT_FOUND");
      this.#join(client as Socket, port, head, refuse);
    });
    await new Promise<void>((resolve) => this.#server.listen(this.#port, "127.0.0.1", resolve));
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  async stop(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    this.#server.closeAllConnections();
    await closed;
    for (const door of this.#doors) await new Promise((resolve) => door.close(resolve));
    if (this.#folder) rmSync(this.#folder, { recursive: true, force: true });
    this.#folder = null;
    this.#doorPaths.clear();
  }

  /** A unix socket for a port of a box. */
  async #door(req: IncomingMessage, res: ServerResponse): Promise<void> {
    let text = "";
    for await (const part of req) text += String(part);
    const { boxKey, port } = JSON.parse(text) as { boxKey: string; port: number };
    const key = `${boxKey}:${port}`;
    if (!this.ports.has(key)) {
      res.writeHead(404).end('{"error":{"code":"NOT_FOUND","message":"no such box"}}');
      return;
    }
    let path = this.#doorPaths.get(key);
    if (!path) {
      this.#folder ??= mkdtempSync(join(tmpdir(), "edge-doors-"));
      path = join(this.#folder, String(this.#doorPaths.size));
      this.#doorPaths.set(key, path);
      const server = createNetServer({ allowHalfOpen: true }, (client) => {
        this.#sockets.add(client);
        client.on("error", () => client.destroy());
        const appPort = this.ports.get(key);
        if (appPort === undefined) client.destroy();
        else this.#join(client, appPort, null, () => client.destroy());
      });
      this.#doors.push(server);
      await new Promise<void>((resolve) => server.listen(path, resolve));
    }
    res.setHeader("content-type", "application/json");
    res.end(JSON.stringify({ path }));
  }

  #join(
    client: Socket,
    port: number,
    head: Buffer | null,
    refuse: (status: number, code: string) => void,
  ): void {
    const app = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    this.#sockets.add(app);
    let isOpen = false;
    app.on("connect", () => {
      isOpen = true;
      this.dials++;
      if (head) client.write("HTTP/1.1 200 OK\r\n\r\n");
      if (head && head.length > 0) app.write(head);
      client.pipe(app);
      app.pipe(client);
    });
    // A door is a local socket, which has no way to say "reset".
    const reset = () => (head ? client.resetAndDestroy() : client.destroy());
    app.on("error", () => (isOpen ? reset() : refuse(502, "PORT_REFUSED")));
    client.on("close", () => app.destroy());
    app.on("close", () => {
      this.#sockets.delete(app);
      this.#sockets.delete(client);
    });
  }
}
