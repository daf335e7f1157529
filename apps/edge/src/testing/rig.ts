import { execFile } from "node:child_process";
import { createServer, request, type IncomingHttpHeaders, type RequestListener } from "node:http";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { connect, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { waitFor } from "@platform/daemon";
import type { RouteTarget } from "@platform/edge-api";
import { ControlPlane } from "./control-plane.ts";
import { startEdgeProcess, type EdgeProcess } from "./edge-process.ts";
import { Host } from "./host.ts";

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly rawHeaders: string[];
  readonly trailers: NodeJS.Dict<string>;
  readonly body: string;
  readonly bytes: Buffer;
}

/** An edge between a control plane, a host and apps. Release it with `stop`. */
export class Rig {
  readonly controlPlane = new ControlPlane();
  readonly host = new Host();
  readonly folder: string;
  edge!: EdgeProcess;
  readonly #closers: (() => Promise<unknown>)[] = [];
  #boxes = 0;

  private constructor(folder: string) {
    this.folder = folder;
  }

  static async start(settings: Record<string, string> = {}): Promise<Rig> {
    const rig = new Rig(await mkdtemp(join(tmpdir(), "edge-test-")));
    try {
      await rig.controlPlane.start();
      await rig.host.start();
      rig.controlPlane.witnesses = [rig.host.url];
      await rig.startEdge(settings);
    } catch (error) {
      await rig.stop();
      throw error;
    }
    return rig;
  }

  /** With HTTPS beside HTTP, by an authority of its own. @returns the rig and the authority's certificate */
  static async startTls(settings: Record<string, string> = {}): Promise<{ rig: Rig; authority: string }> {
    const rig = await Rig.start(settings);
    await rig.edge.stop();
    const folder = join(rig.folder, "authority");
    const tls = { EDGE_TLS_PORT: "0", TLS_AUTHORITY_DIR: folder, TLS_AUTHORITY_NAME: "Clinic" };
    await rig.startEdge({ ...settings, ...tls });
    const pem = await readFile(join(folder, "authority.pem"), "utf8");
    return { rig, authority: pem.split("-----BEGIN PRIVATE")[0]! };
  }

  async startEdge(settings: Record<string, string> = {}): Promise<void> {
    this.edge = await startEdgeProcess(this.controlPlane.url, this.folder, settings);
  }

  async stop(): Promise<void> {
    // Ends long polls and open streams first, so that the edge has nothing to wait for.
    await this.controlPlane.stop();
    for (const close of this.#closers) await close();
    await this.edge?.stop();
    await this.host.stop();
    // Unpacked bundles are read-only folders, which only root removes as they are.
    await promisify(execFile)("chmod", ["-R", "u+w", this.folder]);
    await rm(this.folder, { recursive: true, force: true, maxRetries: 2 });
  }

  /** Starts an app in a box of its own. */
  async app(listener: RequestListener): Promise<App> {
    const server = createServer(listener);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const box = `box-app-${++this.#boxes}`;
    this.host.ports.set(`${box}:3000`, (server.address() as AddressInfo).port);
    const stop = async () => {
      if (!server.listening) return;
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    };
    this.#closers.push(stop);
    const upstream = { hostUrl: this.host.url, boxKey: box, port: 3000 };
    return { server, upstream, target: boxes(upstream), stop };
  }

  /** Publishes routes and resolves when the edge has acknowledged them. */
  async publish(targets: Record<string, RouteTarget | null>): Promise<void> {
    const version = this.controlPlane.publish(targets);
    await waitFor(
      `acknowledgement of ${version}`,
      () => this.controlPlane.acknowledged.includes(version),
      10_000,
    );
  }

  fetch(
    host: string,
    path = "/",
    options: {
      method?: string;
      headers?: Record<string, string | string[]>;
      body?: string | Buffer;
      /** Of another edge than the rig's own. */
      port?: number;
    } = {},
  ): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const req = request(
        {
          port: options.port ?? this.edge.port,
          host: "127.0.0.1",
          path,
          method: options.method ?? "GET",
          headers: { host, connection: "close", ...options.headers },
        },
        (res) => {
          const chunks: Buffer[] = [];
          res.on("data", (chunk: Buffer) => chunks.push(chunk));
          res.on("error", reject);
          res.on("end", () => {
            const bytes = Buffer.concat(chunks);
            resolve({
              status: res.statusCode ?? 0,
              headers: res.headers,
              rawHeaders: res.rawHeaders,
              trailers: res.trailers,
              body: bytes.toString("utf8"),
              bytes,
            });
          });
        },
      );
      req.on("error", reject);
      req.end(options.body);
    });
  }

  /** Sends these very bytes and resolves with everything that came back. */
  raw(bytes: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connect(this.edge.port, "127.0.0.1", () => socket.write(bytes, "latin1"));
      // One that stays open has said what it had to say.
      socket.setTimeout(20_000, () => socket.destroy());
      let text = "";
      socket.setEncoding("latin1").on("data", (part: string) => (text += part));
      socket.on("close", () => resolve(text));
      socket.on("error", (error: NodeJS.ErrnoException) => {
        if (error.code !== "ECONNRESET" && error.code !== "EPIPE") reject(error);
      });
    });
  }
}

export interface App {
  readonly server: ReturnType<typeof createServer>;
  readonly upstream: { hostUrl: string; boxKey: string; port: number };
  readonly target: RouteTarget;
  stop(): Promise<void>;
}

export const boxes = (...upstreams: App["upstream"][]): RouteTarget => ({
  type: "boxes",
  upstreams,
  rewriteHost: null,
  accessSha256: null,
});
