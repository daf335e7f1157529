import { createHash } from "node:crypto";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { availableParallelism } from "node:os";
import { sleepUntil, type Log } from "@platform/daemon";
import type { Route, RouteUpdate } from "@platform/edge-api";
import { HostClient } from "@platform/host-api";
import type { RouteTable } from "../routes/index.ts";
import {
  adminSocket,
  certificateList,
  certificatesMap,
  configFile,
  hostsMap,
  nodeSocket,
  nodeTlsSocket,
  planeConfig,
  sharedMark,
  staticBackend,
  SHARDS,
  shardName,
} from "./config.ts";
import { fillName } from "../static/index.ts";
import { HotCertificates, type Certificates } from "./hot-certificates.ts";
import { Haproxy } from "./process.ts";
import { Runtime } from "./runtime.ts";

/** Targets that HAProxy reaches by itself; beyond, the Node edge serves. */
const MAX_SERVERS = 2_000;
const MAX_HOSTS = 200_000;
/** Of host names that wait to be led past the Node edge. */
const MAX_WAITING = 10_000;
const BATCH = 500;
const MAX_WITHDRAWN = 200;
const TICK_MS = 50;
const SWEEP_MS = 30_000;
const DOOR_MS = 5_000;

export interface PlaneOptions {
  readonly folder: string;
  /** 0: any free one. */
  readonly port: number;
  /** 0: any free one; null: no HTTPS. */
  readonly tlsPort: number | null;
  readonly certificates: Certificates;
  readonly maxConnections: number;
  readonly publicPort: number | null;
  readonly trustForwarded: boolean;
  readonly hostToken: string;
  readonly table: RouteTable;
  /** Whether apps beside it may set cookies for a host name's parent. */
  readonly isShared: (hostname: string, route: Route) => boolean;
  /** Whether HAProxy may do what the Node edge does for this route. */
  readonly isPlain: (route: Route) => boolean;
  readonly onLines: (lines: readonly string[]) => void;
  readonly onLost: (code: number | null) => void;
  readonly log: Log;
}

/** Where HAProxy connects to: a door of a host, or a service. */
interface HotServer {
  readonly name: string;
  readonly shard: string;
  /** Host names led to it. */
  hosts: number;
}

/**
 * HAProxy in front of the Node edge. It answers host names in a map by itself; the map holds those of
 * plain routes that somebody asked for, and only as long as nothing about them changed. A change takes
 * the name out of the map before it counts as applied, so the Node edge's table is always the truth.
 */
export class HaproxyPlane {
  readonly socketPath: string;
  /** Where the Node edge answers handshakes. */
  readonly tlsSocketPath: string;
  readonly #options: PlaneOptions;
  readonly #runtime: Runtime;
  readonly #tls: HotCertificates;
  readonly #stop = new AbortController();
  readonly #hosts = new Map<string, HotServer>();
  readonly #servers = new Map<string, HotServer>();
  readonly #waiting = new Map<string, Route>();
  readonly #clients = new Map<string, HostClient>();
  #process: Haproxy | null = null;
  #loop: Promise<void> | null = null;

  constructor(options: PlaneOptions) {
    this.#options = options;
    this.socketPath = nodeSocket(options.folder);
    this.tlsSocketPath = nodeTlsSocket(options.folder);
    this.#runtime = new Runtime(adminSocket(options.folder));
    this.#tls = new HotCertificates(options.folder, this.#runtime, options.certificates);
  }

  /** Host names that HAProxy answers by itself. */
  get size(): number {
    return this.#hosts.size;
  }

  /** @returns the ports it listens on */
  async start(): Promise<{ port: number; tlsPort: number | null }> {
    const { folder, port: wanted, tlsPort: wantedTls, onLines, onLost, log } = this.#options;
    const port = wanted === 0 ? await freePort() : wanted;
    const tlsPort = wantedTls === 0 ? await freePort() : wantedTls;
    await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const path of [adminSocket(folder)]) await rm(path, { force: true });
    for (const path of [hostsMap(folder), certificatesMap(folder), certificateList(folder)])
      await writeFile(path, "", { mode: 0o600 });
    const text = planeConfig({
      ...this.#options,
      port,
      tlsPort,
      threads: Math.min(4, availableParallelism()),
    });
    await writeFile(configFile(folder), text, { mode: 0o600 });
    const options = { configPath: configFile(folder), runtime: this.#runtime, onLines, onLost, log };
    this.#process = await Haproxy.start(options);
    this.#loop = this.#run();
    return { port, tlsPort };
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#loop;
    await this.#process?.stop();
    await Promise.all([...this.#clients.values()].map((client) => client.close()));
  }

  /** Resolves once HAProxy answers nothing by itself that the update changed. */
  async apply(update: RouteUpdate): Promise<void> {
    if (update.full) return this.withdraw(["*"]);
    // Looks of a tenant may say which cookies are its own.
    const tenants = new Set(update.brands.map(({ tenantId }) => tenantId));
    const names = [...update.removed, ...update.routes.map(({ hostname }) => hostname)];
    if (tenants.size > 0)
      for (const hostname of this.#hosts.keys())
        if (tenants.has(this.#options.table.at(hostname)?.route.tenantId ?? "")) names.push(hostname);
    await this.withdraw(names.map((name) => name.toLowerCase()));
  }

  /** @param hostnames `*`: all of them */
  async withdraw(hostnames: readonly string[]): Promise<void> {
    const { folder } = this.#options;
    const known = hostnames.filter((name) => this.#hosts.has(name) || this.#waiting.has(name));
    // Each costs HAProxy a look through the whole map: beyond these all names are learned anew.
    if (hostnames.includes("*") || known.length > MAX_WITHDRAWN) {
      this.#waiting.clear();
      for (const server of this.#servers.values()) server.hosts = 0;
      this.#hosts.clear();
      await this.#runtime.tell(`clear map ${hostsMap(folder)}`);
      return;
    }
    const commands: Promise<void>[] = [];
    for (const hostname of known) {
      this.#waiting.delete(hostname);
      const server = this.#hosts.get(hostname);
      if (!server) continue;
      server.hosts--;
      this.#hosts.delete(hostname);
      commands.push(this.#runtime.tell(`del map ${hostsMap(folder)} ${hostname}`, /^(Key not found\.)?$/));
    }
    await Promise.all(commands);
  }

  /** The Node edge answered a handshake that HAProxy could have answered. */
  noticedTls(hostname: string): void {
    this.#tls.noticed(hostname);
  }

  /** Resolves once HAProxy serves no certificate that the Node edge would not serve. */
  async renewed(keys: readonly string[]): Promise<void> {
    await this.#tls.recheck(keys);
  }

  /** The Node edge answered a request that HAProxy could have answered. */
  noticed(hostname: string, route: Route): void {
    if (hostname !== route.hostname || this.#waiting.size >= MAX_WAITING) return;
    if (!this.#options.isPlain(route)) return;
    const isKnown = this.#hosts.has(hostname);
    // Files come from here the first time.
    if (isKnown && route.target.type === "static") return;
    // It has it already, and could not reach it: the door may have to be opened again.
    if (isKnown) this.#servers.delete(targetOf(route) ?? "");
    this.#waiting.set(hostname, route);
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    let sweepAt = Date.now() + SWEEP_MS;
    while (!signal.aborted) {
      try {
        await this.#promote();
        await this.#tls.promote();
        if (Date.now() >= sweepAt) {
          sweepAt = Date.now() + SWEEP_MS;
          await this.#sweep();
          // Certificates also end by time alone.
          await this.#tls.recheck();
          await this.#tls.sweep();
        }
      } catch (error) {
        if (!signal.aborted)
          this.#options.log.warn({ err: error }, "HAProxy could not be brought up to date");
      }
      await sleepUntil(Date.now() + TICK_MS, signal);
    }
  }

  async #promote(): Promise<void> {
    if (this.#waiting.size === 0) return;
    const { table, folder, isShared } = { ...this.#options };
    const batch = [...this.#waiting].slice(0, BATCH);
    const ready = new Map<string, HotServer>();
    for (const [hostname, route] of batch) {
      const server = await this.#server(route);
      if (!server) this.#waiting.delete(hostname);
      else ready.set(hostname, server);
    }
    let lines = "";
    for (const [hostname, server] of ready) {
      const route = this.#waiting.get(hostname);
      this.#waiting.delete(hostname);
      // It may have changed while its server was made ready.
      if (!route || table.at(hostname)?.route !== route || this.#hosts.has(hostname)) continue;
      if (this.#hosts.size >= MAX_HOSTS) continue;
      server.hosts++;
      this.#hosts.set(hostname, server);
      const mark = isShared(hostname, route) ? sharedMark : "own";
      lines += `${hostname} ${server.shard}/${server.name}/${mark}\n`;
    }
    if (lines !== "") await this.#runtime.tell(`add map ${hostsMap(folder)} <<\n${lines}`);
  }

  async #server(route: Route): Promise<HotServer | null> {
    if (route.target.type === "static")
      return { name: fillName(route.target), shard: staticBackend, hosts: 0 };
    const key = targetOf(route);
    if (key === null) return null;
    const known = this.#servers.get(key);
    if (known) return known;
    if (this.#servers.size >= MAX_SERVERS) return null;
    const address = await this.#address(route);
    if (address === null) return null;
    const hash = createHash("sha256").update(key).digest();
    const server: HotServer = {
      name: `s${hash.toString("hex", 0, 10)}`,
      shard: shardName(hash[31]! % SHARDS),
      hosts: 0,
    };
    const name = `${server.shard}/${server.name}`;
    const settings = "weight 0 pool-max-conn 256 pool-purge-delay 3s";
    await this.#runtime.tell(`add server ${name} ${address} ${settings}`, /registered|already exists/i);
    await this.#runtime.tell(`enable server ${name}`);
    this.#servers.set(key, server);
    return server;
  }

  async #address({ target }: Route): Promise<string | null> {
    if (target.type === "service") return new URL(target.url).host;
    if (target.type !== "boxes") return null;
    const { hostUrl, boxKey, port } = target.upstreams[0]!;
    let client = this.#clients.get(hostUrl);
    if (!client)
      this.#clients.set(hostUrl, (client = new HostClient({ url: hostUrl, token: this.#options.hostToken })));
    try {
      const { path } = await client.door(boxKey, port, AbortSignal.timeout(DOOR_MS));
      return `unix@${path}`;
    } catch (error) {
      this.#options.log.debug({ boxKey, err: error }, "a host opened no door; the Node edge serves");
      return null;
    }
  }

  /** Servers to which no name leads any more go, once their last connection is closed. */
  async #sweep(): Promise<void> {
    for (const [key, { name, shard, hosts }] of this.#servers) {
      if (hosts > 0) continue;
      this.#servers.delete(key);
      await this.#runtime.tell(`disable server ${shard}/${name}`);
      const answer = await this.#runtime.ask(`del server ${shard}/${name}`);
      if (!/deleted/i.test(answer)) this.#options.log.debug({ name, answer }, "a server stays for now");
    }
  }
}

/** What a server stands for; null when HAProxy has no single one to connect to. */
function targetOf({ target }: Route): string | null {
  if (target.type === "service") return target.url;
  if (target.type !== "boxes" || target.upstreams.length !== 1) return null;
  const { hostUrl, boxKey, port } = target.upstreams[0]!;
  return `${hostUrl} ${boxKey} ${port}`;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
