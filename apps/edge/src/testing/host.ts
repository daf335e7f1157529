import { createServer } from "node:http";
import { connect, type AddressInfo, type Socket } from "node:net";
import type { Duplex } from "node:stream";

export const HOST_TOKEN = "host-token-for-tests-0001";

/** The border of a host: `CONNECT box:port` with the bearer token, then raw bytes to a local server. */
export class Host {
  /** `box:port` → local port of the app that plays the box's port. */
  readonly ports = new Map<string, number>();
  dials = 0;
  readonly #sockets = new Set<Duplex>();
  readonly #server = createServer((_req, res) => res.writeHead(404).end());

  async start(): Promise<void> {
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
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
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
