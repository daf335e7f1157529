import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import {
  Brand,
  type CertificateAnswer,
  type CertificateUpdate,
  type ConsoleBatch,
  type RequestLogEntry,
  type RouteTarget,
  type RouteUpdate,
  type WakeAnswer,
} from "@platform/edge-api";

export const EDGE_TOKEN = "edge-token-for-tests-0001";

export const brand: Brand = Brand.parse({
  tenantId: "tenant-1",
  name: "Clinic <IQ>",
  domain: "clinic.test",
  colorPrimary: "#0f766e",
  supportUrl: "https://clinic.test/help",
});

/** Of routes with `console`, which are previews. */
export const sandboxIdOf = (hostname: string): string =>
  createHash("sha256")
    .update(hostname)
    .digest("hex")
    .replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*$/, "$1-$2-4$3-8$4-$5");

type Handler = (req: IncomingMessage, res: ServerResponse) => void;

/** The internal endpoints that an edge speaks to, and an answer to everything else. */
export class ControlPlane {
  /** `applied` of each poll, in order. */
  readonly acknowledged: number[] = [];
  readonly batches: RequestLogEntry[][] = [];
  readonly wakes: string[] = [];
  /** What each wish to wake an app is answered. */
  wakeAnswer: WakeAnswer = {};
  readonly consoles: ConsoleBatch[] = [];
  /** Runs when a poll comes in, before it is answered. */
  onPoll: (applied: number) => void = () => undefined;
  refuseBatches = false;
  /** Hosts that the edge is told of. */
  witnesses: string[] = [];
  /** `applied` of each poll for certificates, in order. */
  readonly certificatesApplied: number[] = [];
  /** Host names that edges asked certificates for. */
  readonly wishes: string[] = [];
  onWish: (hostname: string) => CertificateAnswer = () => ({
    status: "refused",
    reason: "not_configured",
    retryAfterMs: 60_000,
  });
  #certificates: CertificateUpdate | null = null;
  /** Sent with each update. */
  brands: Brand[] = [brand];
  /** What requests to any other path get. */
  handler: Handler = (req, res) => res.end(JSON.stringify({ path: req.url, headers: req.headers }));
  #updates: RouteUpdate[] = [];
  #waiting = new Set<() => void>();
  #port = 0;
  #server = createServer((req, res) => void this.#answer(req, res));

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  get version(): number {
    return this.#updates.at(-1)?.version ?? 0;
  }

  /** Listens, on the same port as before if it did already. */
  async start(): Promise<void> {
    this.#server = createServer((req, res) => void this.#answer(req, res));
    await new Promise<void>((resolve) => this.#server.listen(this.#port, "127.0.0.1", resolve));
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  async stop(): Promise<void> {
    for (const wake of this.#waiting) wake();
    if (!this.#server.listening) return;
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }

  /** Publishes routes by host name; `null` removes one. The first update is a full one. */
  publish(targets: Record<string, RouteTarget | null>, full = this.#updates.length === 0): number {
    const version = this.version + 1;
    const entries = Object.entries(targets);
    this.#updates.push({
      version,
      full,
      brands: this.brands,
      routes: entries.flatMap(([hostname, target]) =>
        target === null
          ? []
          : [
              {
                hostname,
                tenantId: brand.tenantId,
                target,
                releaseId: null,
                ...("console" in target
                  ? { kind: "preview" as const, deploymentId: null, sandboxId: sandboxIdOf(hostname) }
                  : {
                      kind: "deployment" as const,
                      deploymentId: `deployment-of-${hostname}`,
                      sandboxId: null,
                    }),
              },
            ],
      ),
      removed: entries.filter(([, target]) => target === null).map(([hostname]) => hostname),
      witnesses: this.witnesses,
    });
    for (const wake of this.#waiting) wake();
    return version;
  }

  /** What the next poll of an older version gets. */
  publishCertificates(update: CertificateUpdate): void {
    this.#certificates = update;
    for (const wake of this.#waiting) wake();
  }

  async #answer(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const url = new URL(req.url ?? "/", this.url);
    if (!url.pathname.startsWith("/internal/")) return this.handler(req, res);
    if (req.headers.authorization !== `Bearer ${EDGE_TOKEN}`) {
      res.writeHead(401).end();
      return;
    }
    if (url.pathname === "/internal/edge/routes") return this.#poll(url, res);
    if (url.pathname === "/internal/edge/certificates" && req.method === "GET")
      return this.#pollCertificates(url, res);
    const chunks: Buffer[] = [];
    for await (const chunk of req) chunks.push(chunk as Buffer);
    const body = JSON.parse(Buffer.concat(chunks).toString("utf8")) as unknown;
    if (url.pathname === "/internal/edge/certificates") {
      const { hostname } = body as { hostname: string };
      this.wishes.push(hostname);
      res.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(this.onWish(hostname)));
      return;
    }
    if (url.pathname === "/internal/edge/wake") {
      this.wakes.push((body as { hostname: string }).hostname);
      res.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(this.wakeAnswer));
      return;
    }
    if (this.refuseBatches) {
      res.writeHead(503).end();
      return;
    } else if (url.pathname === "/internal/edge/console") this.consoles.push(...(body as ConsoleBatch[]));
    else this.batches.push(body as RequestLogEntry[]);
    res.writeHead(204).end();
  }

  async #poll(url: URL, res: ServerResponse): Promise<void> {
    const applied = Number(url.searchParams.get("applied"));
    this.onPoll(applied);
    this.acknowledged.push(applied);
    const next = () => this.#updates.find(({ version }) => version > applied);
    if (!next()) await this.#change(res, Number(url.searchParams.get("wait_ms")));
    const update = next();
    if (res.destroyed) return;
    if (update) res.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(update));
    else res.writeHead(204).end();
  }

  async #pollCertificates(url: URL, res: ServerResponse): Promise<void> {
    const applied = Number(url.searchParams.get("applied"));
    this.certificatesApplied.push(applied);
    const isNewer = () => this.#certificates !== null && this.#certificates.version > applied;
    if (!isNewer() && url.searchParams.get("wait_ms") !== "0") await this.#change(res);
    if (res.destroyed) return;
    if (isNewer())
      res.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(this.#certificates));
    else res.writeHead(204).end();
  }

  /** Resolves when something was published, or nobody waits any more. */
  #change(res: ServerResponse, waitMs = 30_000): Promise<void> {
    return new Promise<void>((resolve) => {
      const timer = setTimeout(() => done(), waitMs);
      const done = () => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        resolve();
      };
      this.#waiting.add(done);
      res.once("close", done);
    });
  }
}
