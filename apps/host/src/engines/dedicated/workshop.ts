import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { faultPoint, type Log } from "@platform/daemon";
import type { EngineSpec } from "../engine.ts";
import { assertRoom, assertSize, freePort, newState } from "./allocation.ts";
import { foldersOf, writeState, type DatabaseState } from "./database-state.ts";
import { newEntry, save, type Entry } from "./entry.ts";
import type { ServerKind } from "./kind.ts";
import type { ServerLimits } from "./limits.ts";
import { fill, makeOfBackup, restoreFailure, startAndFurnish, type BackupSource } from "./making.ts";
import type { Pooling } from "./pooling.ts";
import { removeDatabase, type Acting } from "./server.ts";
import { Spares, type SpareSettings } from "./spares.ts";
import type { Turns } from "./turns.ts";
import type { Upgrading } from "./upgrade.ts";

/** What the engine lends to its workshop. */
export interface Workplace {
  readonly kind: ServerKind;
  readonly home: string;
  readonly runsAsRoot: boolean;
  readonly log: Log;
  readonly turns: Turns;
  readonly pooling: Pooling | null;
  readonly spares: SpareSettings;
  open(): Promise<Acting>;
}

/** Makes and removes the servers of one engine; each is written down before anything of it exists. */
export class Workshop implements Upgrading {
  readonly entries = new Map<string, Entry>();
  readonly spares: Spares;
  readonly #at: Workplace;
  #making = 0;

  constructor(at: Workplace) {
    this.#at = at;
    mkdirSync(this.databases, { recursive: true, mode: 0o711 });
    this.spares = new Spares(
      at.spares,
      {
        make: (spec, signal) => this.#makeSpare(spec, signal),
        remove: async (entry) => this.remove(entry, await at.open()),
        exactVersion: (version) => at.kind.exactVersion(version),
        isBusy: () => this.#making > 0,
      },
      at.log,
    );
  }

  /** Where the servers' folders lie. */
  get databases(): string {
    return join(this.#at.home, "databases");
  }

  /** A spare server, or one that is made now, up to a login that was proved. */
  async make(key: string, spec: EngineSpec, acting: Acting, signal: AbortSignal): Promise<Entry> {
    const { kind, home } = this.#at;
    const version = await kind.exactVersion(spec.version);
    assertSize(kind, spec);
    assertRoom(home);
    const spare = await this.spares.claim(key, spec, version, acting);
    if (spare) {
      this.entries.set(key, spare);
      return spare;
    }
    this.#making++;
    try {
      const entry = await this.reserve(key, spec, version, acting.limits);
      await this.#complete(entry, acting, signal, "ready");
      return entry;
    } finally {
      this.#making--;
    }
  }

  async #makeSpare(spec: EngineSpec, signal: AbortSignal): Promise<Entry> {
    const acting = await this.#at.open();
    const version = await this.#at.kind.exactVersion(spec.version);
    assertRoom(this.#at.home);
    const key = `spare-${randomBytes(8).toString("hex")}`;
    const entry = await this.reserve(key, spec, version, acting.limits, this.spares.entries);
    await this.#complete(entry, acting, signal, "spare");
    return entry;
  }

  async #complete(entry: Entry, acting: Acting, signal: AbortSignal, phase: "ready" | "spare") {
    const { engine } = this.#at.kind;
    try {
      await this.prepare(entry, acting);
      faultPoint(`host.${engine}.after-clone`);
      await startAndFurnish(entry, acting, signal, () => this.freePort());
      faultPoint(`host.${engine}.before-state`);
      save(entry, { phase });
    } catch (error) {
      await this.remove(entry, acting);
      throw error;
    }
  }

  /** A server with what a backup holds, and with ways in of its own. */
  async makeOfBackup(key: string, spec: EngineSpec, acting: Acting, from: BackupSource): Promise<Entry> {
    const version = await this.#at.kind.exactVersion(spec.version);
    assertRoom(this.#at.home);
    const entry = await this.reserve(key, spec, version, acting.limits);
    try {
      await makeOfBackup(entry, acting, from, () => this.freePort());
      save(entry, { phase: "ready" });
      await this.settlePool(entry, acting);
      return entry;
    } catch (error) {
      await this.remove(entry, acting);
      throw restoreFailure(error);
    }
  }

  /** Writes down uid, port and names before anything exists that would have to be found again. */
  async reserve(
    key: string,
    spec: EngineSpec,
    version: string,
    limits: ServerLimits,
    into = this.entries,
  ): Promise<Entry> {
    const { turns, kind, home, runsAsRoot } = this.#at;
    // Choosing and recording are one turn, so that two creations never choose alike.
    return turns.run("reserve", async () => {
      const folders = foldersOf(this.databases, key, limits.hasDisk);
      const state = await newState(this.#states(), {
        ...{ key, spec, version, hasDisk: limits.hasDisk, database: kind.databaseName() },
        uidsOf: runsAsRoot ? home : null,
      });
      mkdirSync(folders.root, { mode: 0o711 });
      writeState(folders, state);
      const entry = newEntry(state, folders);
      into.set(key, entry);
      return entry;
    });
  }

  async prepare(entry: Entry, acting: Acting): Promise<void> {
    const { turns, kind, home } = this.#at;
    const templates = join(home, "templates");
    mkdirSync(templates, { recursive: true, mode: 0o711 });
    // A template is made by one creation while the others wait for it.
    const { version } = entry.state.spec;
    const template = await turns.run(`template ${version}`, () => kind.template(templates, version));
    await fill(entry, acting, () => kind.prepare(entry, template, acting.authority));
  }

  freePort(): Promise<number> {
    return freePort(this.#states());
  }

  async stopPool(entry: Entry): Promise<void> {
    await this.#at.pooling?.stop(entry);
  }

  async settlePool(entry: Entry, acting: Acting): Promise<void> {
    const { pooling } = this.#at;
    await pooling?.settle(entry, acting, () => this.freePort());
    if (pooling?.view(entry)?.state === "running") entry.poolFailures = 0;
  }

  async remove(entry: Entry, acting: Acting): Promise<void> {
    await this.stopPool(entry);
    await removeDatabase(entry, acting);
    if (this.entries.get(entry.state.key) === entry) this.entries.delete(entry.state.key);
    this.spares.entries.delete(entry.state.home);
  }

  #states(): DatabaseState[] {
    return [...this.entries.values(), ...this.spares.entries.values()].map(({ state }) => state);
  }
}
