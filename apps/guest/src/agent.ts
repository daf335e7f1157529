import { dirname } from "node:path";
import type { AppliedConfig, GuestConfig, GuestLimits, GuestLink, Readiness } from "@platform/guest-protocol";
import { Access } from "./access.ts";
import { Environment } from "./environment.ts";
import { AgentError, EnvdError, stringMap } from "./http.ts";
import { Outbound } from "./network/outbound.ts";
import { Supervisor } from "./services/supervisor.ts";

/** Everything that lives as long as the box. */
export class Agent {
  readonly access = new Access();
  readonly environment: Environment;
  readonly supervisor: Supervisor;
  readonly #outbound: Outbound;
  readonly #logDir: string;
  readonly #runFolder: string;
  #links: readonly GuestLink[];
  limits: GuestLimits | null;

  constructor(config: GuestConfig) {
    this.environment = new Environment(config);
    this.supervisor = new Supervisor(this.environment, config.logDir);
    this.#outbound = new Outbound(config.outboundPath);
    this.#links = config.links;
    this.limits = config.limits;
    this.#logDir = config.logDir;
    this.#runFolder = dirname(config.outboundPath);
  }

  openOutbound(): Promise<AppliedConfig> {
    return this.#outbound.apply(this.environment.proxyPort, this.#links);
  }

  /** @throws AgentError 400; then nothing changed */
  async configure(body: Record<string, unknown>): Promise<AppliedConfig> {
    const env = body["env"] === undefined ? null : stringMap(body["env"], "env");
    const links = body["links"] === undefined ? this.#links : toLinks(body["links"]);
    const proxyPort =
      body["proxyPort"] === undefined ? this.environment.proxyPort : toProxyPort(body["proxyPort"]);
    const limits = body["limits"] === undefined ? this.limits : toLimits(body["limits"]);
    this.limits = limits;
    if (env) this.environment.configure(env);
    this.#links = links;
    this.environment.proxyPort = proxyPort;
    if (body["isFirstUse"] === true) await this.#renewTimes();
    return this.openOutbound();
  }

  /** A box that waited for its user looks as new as it is to that user. */
  async #renewTimes(): Promise<void> {
    const { utimes } = await import("node:fs/promises");
    const now = new Date();
    const folders = [this.environment.workdir, this.environment.home, this.#runFolder, this.#logDir];
    const paths = [...folders, "/tmp", "/var/tmp", "/dev/shm", "/run"];
    // What is not the box's own keeps its time: it says nothing about the box.
    await Promise.allSettled(paths.map((path) => utimes(path, now, now)));
  }

  /** POST /init. The clock is the host kernel's, and volumes are mounts of the host's: neither is set here. */
  initialise(body: Record<string, unknown>): void {
    const { envVars, accessToken, defaultUser, defaultWorkdir } = body;
    if (
      typeof defaultUser === "string" &&
      defaultUser !== "" &&
      defaultUser !== "user" &&
      defaultUser !== "root"
    ) {
      throw new EnvdError(401, `error looking up user '${defaultUser}': user: unknown user ${defaultUser}`);
    }
    if (envVars !== undefined && envVars !== null) this.environment.initialise(stringMap(envVars, "envVars"));
    if (typeof accessToken === "string") this.access.setToken(accessToken);
    if (typeof defaultWorkdir === "string" && defaultWorkdir !== "")
      this.environment.workdir = defaultWorkdir;
  }

  get readiness(): Readiness {
    const uptimeMs = Math.round(process.uptime() * 1000);
    return { ok: true, pid: process.pid, uptimeMs, time: new Date().toISOString() };
  }
}

const invalid = (message: string) => new AgentError("INVALID", 400, message);

const isPort = (value: unknown): value is number =>
  typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= 65_535;

function toProxyPort(value: unknown): number | null {
  if (value === null || isPort(value)) return value;
  throw invalid(`"proxyPort" is a port or null.`);
}

function toLimits(value: unknown): GuestLimits | null {
  if (value === null) return null;
  const { memoryBytes, cpuMillis } = (value ?? {}) as Record<string, unknown>;
  if (typeof memoryBytes === "number" && memoryBytes > 0 && typeof cpuMillis === "number" && cpuMillis > 0)
    return { memoryBytes, cpuMillis };
  throw invalid(`"limits" is {"memoryBytes", "cpuMillis"} or null.`);
}

function toLinks(value: unknown): GuestLink[] {
  if (!Array.isArray(value)) throw invalid(`"links" is a list.`);
  return value.map((entry: unknown) => {
    const { host, port } = (entry ?? {}) as Record<string, unknown>;
    // The name is put into a request line, so nothing else may be in it.
    if (typeof host !== "string" || !/^[A-Za-z0-9_.:-]{1,253}$/.test(host) || !isPort(port)) {
      throw invalid(`Each link is {"host", "port"}.`);
    }
    return { host, port };
  });
}
