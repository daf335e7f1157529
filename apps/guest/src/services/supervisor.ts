import { isDeepStrictEqual } from "node:util";
import type { GuestService, ServiceRecord } from "@platform/guest-protocol";
import type { Environment } from "../environment.ts";
import { AgentError } from "../http.ts";
import { ServiceLog } from "./log.ts";
import { Service } from "./service.ts";

const MAX_SERVICES = 64;

/** The named programs of the box. Changes of one service happen one after the other. */
export class Supervisor {
  readonly #environment: Environment;
  readonly #logDir: string;
  readonly #services = new Map<string, Service>();
  readonly #turns = new Map<string, Promise<unknown>>();

  constructor(environment: Environment, logDir: string) {
    this.#environment = environment;
    this.#logDir = logDir;
  }

  list(): ServiceRecord[] {
    return [...this.#services.values()].map((service) => service.record);
  }

  /** @throws AgentError `NOT_FOUND` */
  get(name: string): Service {
    const service = this.#services.get(name);
    if (!service) throw new AgentError("NOT_FOUND", 404, `There is no service "${name}".`);
    return service;
  }

  find(name: string): Service | null {
    return this.#services.get(name) ?? null;
  }

  put(spec: GuestService): Promise<ServiceRecord> {
    return this.#inTurn(spec.name, async () => {
      const old = this.#services.get(spec.name);
      const lives = old?.record.status === "running" || old?.record.status === "backoff";
      if (old && lives && isDeepStrictEqual(old.spec, spec)) return old.record;
      if (!old && this.#services.size >= MAX_SERVICES) {
        throw new AgentError(
          "CONFLICT",
          409,
          `A box has at most ${MAX_SERVICES} services; remove one first.`,
        );
      }
      await old?.stop();
      return this.#start(spec, old?.log ?? new ServiceLog(this.#logDir, spec.name));
    });
  }

  restart(name: string): Promise<ServiceRecord> {
    return this.#inTurn(name, async () => {
      const old = this.get(name);
      await old.stop();
      return this.#start(old.spec, old.log);
    });
  }

  remove(name: string, graceMs?: number): Promise<void> {
    return this.#inTurn(name, async () => {
      const old = this.#services.get(name);
      if (!old) return;
      await old.stop(graceMs);
      old.log.remove();
      this.#services.delete(name);
    });
  }

  async stopAll(): Promise<void> {
    await Promise.all([...this.#services.values()].map((service) => service.stop()));
  }

  async #start(spec: GuestService, log: ServiceLog): Promise<ServiceRecord> {
    const service = new Service(spec, this.#environment, log);
    this.#services.set(spec.name, service);
    await service.start();
    return service.record;
  }

  #inTurn<T>(name: string, action: () => Promise<T>): Promise<T> {
    const before = this.#turns.get(name) ?? Promise.resolve();
    const turn = before.then(action, action);
    const settled = turn.then(
      () => undefined,
      () => undefined,
    );
    this.#turns.set(name, settled);
    void settled.then(() => {
      if (this.#turns.get(name) === settled) this.#turns.delete(name);
    });
    return turn;
  }
}
