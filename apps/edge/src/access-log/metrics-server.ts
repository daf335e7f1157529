import { createHash, timingSafeEqual } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Metrics } from "./metrics.ts";

const digest = (text: string) => createHash("sha256").update(text).digest();

/** `GET /metrics` for the operator's own collector, on 127.0.0.1 and with a bearer token. */
export class MetricsServer {
  readonly #server: Server;

  constructor(metrics: Metrics, token: string) {
    const wanted = digest(`Bearer ${token}`);
    this.#server = createServer({ headersTimeout: 5_000, requestTimeout: 5_000 }, (req, res) => {
      const isKnown = timingSafeEqual(digest(req.headers.authorization ?? ""), wanted);
      if (!isKnown) res.writeHead(401, { "www-authenticate": "Bearer" }).end();
      else if (req.method !== "GET" || req.url !== "/metrics") res.writeHead(404).end();
      else res.writeHead(200, { "content-type": "text/plain; version=0.0.4" }).end(metrics.text());
    });
    this.#server.maxConnections = 16;
  }

  /** @returns the port it listens on */
  async listen(port: number): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(port, "127.0.0.1", () => resolve());
    });
    return (this.#server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }
}
