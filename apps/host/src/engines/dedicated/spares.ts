import { symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { faultPoint, type Log } from "@platform/daemon";
import type { LoginProof } from "@platform/host-api";
import { isAlive } from "@platform/postgres";
import { readPressure, WarmPool, type PoolSettings, type PoolState } from "../../pool/index.ts";
import type { EngineSpec } from "../engine.ts";
import { loginOf, save, type Entry } from "./entry.ts";
import type { Acting } from "./server.ts";

export type SpareSettings = PoolSettings<EngineSpec>;

/** What cannot change once a server runs with it: spare servers are interchangeable within one shape. */
const nameOf = ({ version, memoryBytes, storageBytes, cpuMillis, hostname }: EngineSpec): string =>
  [version, memoryBytes, storageBytes, cpuMillis, hostname].join("/");

interface Supply {
  /** A server up to the login that was proved, in `entries` from its first step on. */
  make(spec: EngineSpec, signal: AbortSignal): Promise<Entry>;
  remove(entry: Entry): Promise<void>;
  /** Exact version that a server made now would have. */
  exactVersion(version: string): Promise<string>;
  isBusy(): boolean;
}

/**
 * Servers made before anybody asks: running, with a database and an account of their own that nobody was
 * told of. One leaves once, for good, by the write of its state file that gives it a key.
 */
export class Spares {
  /** By home, those in the making included: their ports and uids are taken. */
  readonly entries = new Map<string, Entry>();
  readonly #pool: WarmPool<Entry, EngineSpec>;
  readonly #supply: Supply;

  constructor(settings: SpareSettings, supply: Supply, log: Log) {
    this.#supply = supply;
    this.#pool = new WarmPool<Entry, EngineSpec>({
      ...{ settings, nameOf, log, pressure: readPressure, isBusy: () => supply.isBusy() },
      supply: {
        boot: (spec, signal) => supply.make(spec, signal),
        isAlive: (entry) => this.#isFit(entry),
        discard: (entry) => supply.remove(entry),
      },
    });
  }

  /** Goes on with what a former daemon left in `entries`. */
  start(): void {
    for (const entry of this.entries.values()) this.#pool.adopt(entry.state.spec, entry);
    this.#pool.start();
  }

  report = (): PoolState<EngineSpec> => this.#pool.report();

  /** Removes all of them: without this daemon nobody would look after them. */
  close = (): Promise<void> => this.#pool.close();

  /**
   * A running server that has this key from now on, proved by a login; `null` when none was ready.
   *
   * @param version exact
   */
  async claim(key: string, spec: EngineSpec, version: string, acting: Acting): Promise<Entry | null> {
    for (;;) {
      const entry = this.#pool.take(spec);
      if (!entry) return null;
      const proof = entry.state.version === version ? await proved(entry, acting) : null;
      if (!proof?.ok) {
        await this.#supply.remove(entry);
        continue;
      }
      try {
        faultPoint(`host.${acting.kind.engine}.spare-chosen`);
        // First, so that whoever asks for the key finds the folder even if its state is damaged later.
        symlinkSync(entry.state.home, join(dirname(entry.folders.root), key));
        faultPoint(`host.${acting.kind.engine}.spare-linked`);
        save(entry, { key, spec, phase: "ready" });
        faultPoint(`host.${acting.kind.engine}.spare-claimed`);
      } catch (error) {
        entry.state = { ...entry.state, key };
        await this.#supply.remove(entry);
        throw error;
      }
      entry.proof = proof;
      entry.failure = null;
      this.entries.delete(entry.state.home);
      return entry;
    }
  }

  async #isFit({ server, state }: Entry): Promise<boolean> {
    if (!server || !isAlive(server)) return false;
    return (await this.#supply.exactVersion(state.spec.version).catch(() => null)) === state.version;
  }
}

const proved = (entry: Entry, { kind, authority }: Acting): Promise<LoginProof> =>
  kind.prove(loginOf(entry, authority), true);
