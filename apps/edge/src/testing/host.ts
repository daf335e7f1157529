import { createServer } from "node:http";
import { connect, type AddressInfo, type Socket } from "node:net";
import type { Duplex } from "node:stream";

export const HOST_TOKEN = "host-token-for-tests-0001";

/** The border of a host: `CONNECT box:port` with the bearer token, then raw bytes to a local server. */
export class Host {
  /** `box:port` → local port of the app that plays the box's port. */
  readonly ports = new Map<string, number>();
  dials = 0;
  /** Answers of `GET /fences`: what an edge must not serve. */
  standing = { version: 0, hostnames: [] as string[] };
  /** `applied` of each question for it. */
  readonly asked: number[] = [];
  readonly #sockets = new Set<Duplex>();
  #port = 0;
  #server = createServer();

  /** Listens, on the same port as before if it did already. */
  async start(): Promise<void> {
    this.#server = createServer((req, res) => {
      const url = new URL(req.url ?? "/", "http://host");
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
      const port = this.ports.get(req.url ?? "");
      if (port === undefined) return refuse(404, "NOT_FOUND");
      this.dials++;
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
  }

  #join(client: Socket, port: number, head: Buffer, refuse: (status: number, code: string) => void): void {
    const app = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    this.#sockets.add(app);
    let isOpen = false;
    app.on("connect", () => {
      isOpen = true;
      client.write("HTTP/1.1 200 OK\r\n\r\n");
      if (head.length > 0) app.write(head);
      client.pipe(app);
      app.pipe(client);
    });
    app.on("error", () => (isOpen ? client.resetAndDestroy() : refuse(502, "PORT_REFUSED")));
    client.on("close", () => app.destroy());
    app.on("close", () => {
      this.#sockets.delete(app);
      this.#sockets.delete(client);
    });
  }
}
