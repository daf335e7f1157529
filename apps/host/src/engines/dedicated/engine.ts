import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { faultPoint, type Log } from "@platform/daemon";
import {
  encodeFrame,
  HostError,
  type Frame,
  type DatabaseCredentials,
  type DatabaseStats,
  type HostedDatabase,
  type LoginProof,
  type QueryAnswer,
  type QueryRequest,
} from "@platform/host-api";
import { lastLines, serverHome } from "@platform/postgres";
import type { DatabaseEngine, EngineSpec } from "../engine.ts";
import { assertRoom, assertSize, freePort, newState } from "./allocation.ts";
import { manifestOf } from "./backup.ts";
import type { Manifest } from "./manifest.ts";
import { foldersOf, writeState, type DatabaseState } from "./database-state.ts";
import {
  assertSameSpec,
  credentialsOf,
  loginFailed,
  loginOf,
  newEntry,
  notFound,
  save,
  viewOf,
  type Entry,
} from "./entry.ts";
import type { ServerKind } from "./kind.ts";
import type { Dial } from "./login.ts";
import type { ServerLimits } from "./limits.ts";
import { load } from "./loading.ts";
import { logOf } from "./log-archive.ts";
import { assertSameMajor, fill, makeOfBackup, restoreFailure, startAndFurnish } from "./making.ts";
import { look, statsOf } from "./observe.ts";
import type { Pooling, Share } from "./pooling.ts";
import { bringUp, dropOldAccounts, halt, removeDatabase, settleAccount, type Acting } from "./server.ts";
import { Spares, type SpareSettings } from "./spares.ts";
import { recover, supervise, type Watched } from "./supervision.ts";
import { Turns } from "./turns.ts";
import { forgetBefore, goBack, upgrade, wayBackOf, type Upgrading } from "./upgrade.ts";
import { assertAlive, dropUser, newAccount, putUser } from "./users.ts";

export interface EngineOptions {
  /** Folder of this engine alone. */
  dataDir: string;
  log: Log;
  runsAsRoot: boolean;
  /** Where the authority of the servers' certificates lies; engines of one host share it. */
  authorityDir?: string;
  /** Pause between two looks at the servers, in milliseconds. */
  superviseEveryMs?: number;
  /** Servers made before anybody asks; none when left out. */
  spares?: SpareSettings;
}

const noSpares: SpareSettings = { min: 0, max: 0, lasting: [], reserveBytes: 0 };

/** A managed engine with a server for each database: what all kinds have in common. */
export class DedicatedEngine implements DatabaseEngine {
  readonly engine: ServerKind["engine"];
  readonly #kind: ServerKind;
  readonly #options: EngineOptions;
  readonly #home: string;
  readonly #log: Log;
  readonly #asRoot: boolean;
  readonly #entries = new Map<string, Entry>();
  /** Databases whose state cannot be read: neither served nor touched, nor reported as absent. */
  #damaged: ReadonlyMap<string, string> = new Map();
  readonly #pooling: Pooling | null;
  readonly #turns = new Turns();
  readonly #spares: Spares;
  #creating = 0;
  readonly #watched: Watched;
  readonly #upgrading: Upgrading;
  readonly #timer: NodeJS.Timeout;
  #opened: Promise<Acting> | null = null;
  #acting: Acting | null = null;
  #closed = false;

  constructor(kind: ServerKind, options: EngineOptions) {
    this.engine = kind.engine;
    this.#kind = kind;
    this.#options = options;
    this.#home = serverHome(options.dataDir);
    this.#log = options.log;
    this.#asRoot = options.runsAsRoot;
    mkdirSync(this.#databases, { recursive: true, mode: 0o711 });
    this.#pooling = kind.openPooling?.() ?? null;
    this.#spares = new Spares(
      options.spares ?? noSpares,
      {
        make: (spec, signal) => this.#makeSpare(spec, signal),
        remove: async (entry) => this.#remove(entry, await this.#open()),
        exactVersion: (version) => kind.exactVersion(version),
        isBusy: () => this.#creating > 0,
      },
      options.log,
    );
    this.#watched = {
      ...{ entries: this.#entries, turns: this.#turns, pooling: this.#pooling, log: options.log },
      acting: () => this.#acting,
      isClosed: () => this.#closed,
      settlePool: (entry, acting) => this.#settlePool(entry, acting),
    };
    this.#upgrading = {
      entries: this.#entries,
      reserve: (home, spec, version, limits) => this.#reserve(home, spec, version, limits),
      prepare: (entry, acting) => this.#prepare(entry, acting),
      freePort: () => this.#freePort(),
      remove: (entry, acting) => this.#remove(entry, acting),
      stopPool: async (entry) => this.#pooling?.stop(entry),
      settlePool: (entry, acting) => this.#settlePool(entry, acting),
    };
    this.#timer = setInterval(() => supervise(this.#watched), options.superviseEveryMs ?? 500);
    this.#timer.unref();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    await this.#spares.close();
    await this.#turns.idle();
    await this.#pooling?.close();
    await (await this.#opened)?.limits.forget();
  }

  /** Where the key of the authority lies that signs every server's certificate here. */
  get authorityDir(): string {
    return this.#options.authorityDir ?? join(this.#home, "authority");
  }

  report = () => this.#kind.report();
  /** What is made before anybody asks. */
  spares = () => this.#spares.report();

  async create(key: string, spec: EngineSpec, signal: AbortSignal): Promise<HostedDatabase> {
    const acting = await this.#open();
    return this.#turns.run(key, async () => {
      const existing = this.#get(key);
      if (existing?.state.phase === "ready") {
        assertSameSpec(existing.state, spec);
        return this.#view(existing, acting);
      }
      if (existing) await this.#remove(existing, acting);
      signal.throwIfAborted();
      const version = await this.#kind.exactVersion(spec.version);
      assertSize(this.#kind, spec);
      assertRoom(this.#home);
      const spare = await this.#spares.claim(key, spec, version, acting);
      if (spare) this.#entries.set(key, spare);
      const entry = spare ?? (await this.#make(key, spec, version, acting, signal));
      await this.#settlePool(entry, acting);
      return this.#view(entry, acting);
    });
  }

  /** A server of this key that nobody had before, up to the login that was proved. */
  async #make(key: string, spec: EngineSpec, version: string, acting: Acting, signal: AbortSignal) {
    this.#creating++;
    try {
      const entry = await this.#reserve(key, spec, version, acting.limits);
      await this.#complete(entry, acting, signal, "ready");
      return entry;
    } finally {
      this.#creating--;
    }
  }

  async #makeSpare(spec: EngineSpec, signal: AbortSignal): Promise<Entry> {
    const acting = await this.#open();
    const version = await this.#kind.exactVersion(spec.version);
    assertRoom(this.#home);
    const key = `spare-${randomBytes(8).toString("hex")}`;
    const entry = await this.#reserve(key, spec, version, acting.limits, this.#spares.entries);
    await this.#complete(entry, acting, signal, "spare");
    return entry;
  }

  async #complete(
    entry: Entry,
    acting: Acting,
    signal: AbortSignal,
    phase: "ready" | "spare",
  ): Promise<void> {
    try {
      await this.#prepare(entry, acting);
      faultPoint(`host.${this.engine}.after-clone`);
      await startAndFurnish(entry, acting, signal, () => this.#freePort());
      faultPoint(`host.${this.engine}.before-state`);
      save(entry, { phase });
    } catch (error) {
      await this.#remove(entry, acting);
      throw error;
    }
  }

  /** The frames of a backup; it fails as a whole or ends with the frame that says so. */
  async *backup(key: string, signal: AbortSignal): AsyncGenerator<Buffer> {
    const { authority } = await this.#open();
    const entry = this.#get(key);
    if (entry?.state.phase !== "ready") throw notFound(key);
    assertAlive(entry);
    const manifest = manifestOf(entry, this.engine);
    yield encodeFrame("manifest", Buffer.from(JSON.stringify(manifest)));
    yield* this.#kind.backup.read(entry, authority, signal);
    yield encodeFrame("end");
  }

  /** A new database with what a backup holds, and with ways in of its own. */
  async restore(
    key: string,
    spec: EngineSpec,
    manifest: Manifest,
    frames: AsyncIterable<Frame>,
    targetTime: string | null,
    signal: AbortSignal,
  ): Promise<HostedDatabase> {
    const acting = await this.#open();
    assertSameMajor(manifest, this.engine, spec);
    return this.#turns.run(key, async () => {
      const existing = this.#get(key);
      if (existing?.state.phase === "ready") return this.#view(existing, acting);
      if (existing) await this.#remove(existing, acting);
      const version = await this.#kind.exactVersion(spec.version);
      assertRoom(this.#home);
      const entry = await this.#reserve(key, spec, version, acting.limits);
      try {
        const nextPort = () => this.#freePort();
        await makeOfBackup(entry, acting, { manifest, frames, targetTime, signal, nextPort });
        save(entry, { phase: "ready" });
        await this.#settlePool(entry, acting);
        return this.#view(entry, acting);
      } catch (error) {
        await this.#remove(entry, acting);
        throw restoreFailure(error);
      }
    });
  }

  /** Writes down uid, port and names before anything exists that would have to be found again. */
  async #reserve(
    key: string,
    spec: EngineSpec,
    version: string,
    limits: ServerLimits,
    into = this.#entries,
  ): Promise<Entry> {
    // Choosing and recording are one turn, so that two creations never choose alike.
    return this.#turns.run("reserve", async () => {
      const folders = foldersOf(this.#databases, key, limits.hasDisk);
      const state = await newState(this.#states(), {
        ...{ key, spec, version, hasDisk: limits.hasDisk, database: this.#kind.databaseName() },
        uidsOf: this.#asRoot ? this.#home : null,
      });
      mkdirSync(folders.root, { mode: 0o711 });
      writeState(folders, state);
      const entry = newEntry(state, folders);
      into.set(key, entry);
      return entry;
    });
  }

  async #prepare(entry: Entry, acting: Acting): Promise<void> {
    const templates = join(this.#home, "templates");
    mkdirSync(templates, { recursive: true, mode: 0o711 });
    // A template is made by one creation while the others wait for it.
    const { version } = entry.state.spec;
    const template = await this.#turns.run(`template ${version}`, () =>
      this.#kind.template(templates, version),
    );
    await fill(entry, acting, () => this.#kind.prepare(entry, template, acting.authority));
  }

  #freePort(): Promise<number> {
    return freePort(this.#states());
  }

  async find(key: string): Promise<HostedDatabase | null> {
    const acting = await this.#open();
    const entry = this.#get(key);
    return entry ? this.#view(entry, acting) : null;
  }

  async list(): Promise<HostedDatabase[]> {
    const acting = await this.#open();
    const served = [...this.#entries.values()].filter(({ state }) => state.standsBy === null);
    return served.map((entry) => this.#view(entry, acting));
  }

  start(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, acting) => {
      if (entry.state.wanted !== "running") save(entry, { wanted: "running" });
      const proof = await bringUp(entry, acting);
      if (!proof.ok) throw loginFailed(entry, proof);
      await this.#settlePool(entry, acting);
      return this.#view(entry, acting);
    });
  }

  stop(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, acting) => {
      save(entry, { wanted: "stopped" });
      await this.#pooling?.stop(entry);
      await halt(entry, this.#kind);
      return this.#view(entry, acting);
    });
  }

  credentials(key: string): Promise<DatabaseCredentials> {
    return this.#withReady(key, async (entry, { authority }) =>
      credentialsOf(this.#kind, entry.state, authority, entry.state, this.#poolingSeen(entry)),
    );
  }

  rotate(key: string): Promise<DatabaseCredentials> {
    return this.#withReady(key, async (entry, acting) => {
      assertAlive(entry);
      if (entry.state.pendingAccount === null) save(entry, { pendingAccount: newAccount() });
      faultPoint(`host.${this.engine}.rotation-noted`);
      entry.proof = await settleAccount(entry, acting);
      entry.failure = null;
      await this.#settlePool(entry, acting);
      return credentialsOf(this.#kind, entry.state, acting.authority, entry.state, this.#poolingSeen(entry));
    });
  }

  endRotation(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, acting) => {
      assertAlive(entry);
      await dropOldAccounts(entry, acting);
      await this.#settlePool(entry, acting);
      return this.#view(entry, acting);
    });
  }

  putUser(key: string, name: string, access: "owner" | "read"): Promise<DatabaseCredentials> {
    return this.#withReady(key, async (entry, acting) => {
      const { username, password } = await putUser(entry, acting, name, access);
      await this.#settlePool(entry, acting);
      const account = { username, password };
      return credentialsOf(this.#kind, entry.state, acting.authority, account, this.#poolingSeen(entry));
    });
  }

  users(key: string): Promise<{ name: string; username: string; access: "owner" | "read" }[]> {
    return this.#withReady(key, async (entry) =>
      entry.state.users.map(({ name, username, access }) => ({ name, username, access })),
    );
  }

  dropUser(key: string, name: string): Promise<void> {
    return this.#withReady(key, async (entry, acting) => {
      await dropUser(entry, acting, name);
      await this.#settlePool(entry, acting);
    });
  }

  /** A newer server in its place, with the same address, accounts and content. */
  upgrade(key: string, version: string, signal: AbortSignal): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, acting) => {
      // What was asked for is there already.
      if (entry.state.spec.version === version) return this.#view(entry, acting);
      assertAlive(entry);
      return this.#view(await upgrade(entry, version, acting, this.#upgrading, signal), acting);
    });
  }

  /** The server before the last upgrade in its place again. */
  goBack(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, acting) =>
      this.#view(await goBack(entry, acting, this.#upgrading), acting),
    );
  }

  forgetBefore(key: string): Promise<void> {
    return this.#withReady(key, (_entry, acting) => forgetBefore(key, acting, this.#upgrading));
  }

  async probe(key: string, dial?: Dial): Promise<LoginProof> {
    const acting = await this.#open();
    const entry = this.#get(key);
    if (!entry) throw notFound(key);
    return look(entry, acting, this.#pooling, dial);
  }

  log = async (key: string) =>
    logOf(await this.#withReady(key, async (entry, acting) => ({ entry, acting })));

  async place(key: string, port: number, share: Share) {
    await this.#open();
    const entry = this.#get(key);
    if (!entry) return null;
    return this.#pooling?.place(entry, port, share) ?? { port: entry.state.port, most: null };
  }

  async stats(key: string): Promise<DatabaseStats> {
    const acting = await this.#open();
    const entry = this.#get(key);
    if (!entry) throw notFound(key);
    return statsOf(entry, acting);
  }

  async query(key: string, request: QueryRequest): Promise<QueryAnswer> {
    const { authority } = await this.#open();
    const entry = this.#get(key);
    if (!entry) throw notFound(key);
    if (!this.#kind.query) throw new HostError("UNSUPPORTED", 422, `${this.engine} has no query language.`);
    return this.#kind.query(loginOf(entry, authority), request);
  }

  async logs(key: string, lines: number): Promise<string[]> {
    await this.#open();
    const entry = this.#get(key);
    if (!entry) throw notFound(key);
    const text = lastLines(entry.folders.logFile, lines, 1024 * 1024);
    return text === "" ? [] : text.split("\n");
  }

  async destroy(key: string): Promise<void> {
    const acting = await this.#open();
    await this.#turns.run(key, async () => {
      const entry = this.#get(key);
      if (!entry) return;
      await forgetBefore(key, acting, this.#upgrading);
      save(entry, { phase: "deleting" });
      await this.#remove(entry, acting);
    });
  }

  async recover(): Promise<void> {
    const acting = await this.#open();
    await recover(this.#watched, acting);
    this.#spares.start();
  }

  /** PEM of the authority that signs every server's certificate here. */
  async certificateAuthority(): Promise<string> {
    return (await this.#open()).authority.certificate;
  }

  /** Opens authority and limits and reads what is on disk, once; removes what no state was completed for. */
  #open(): Promise<Acting> {
    this.#opened ??= this.#load().catch((error: unknown) => {
      this.#opened = null;
      throw error;
    });
    return this.#opened;
  }

  async #load(): Promise<Acting> {
    const { runsAsRoot, log } = this.#options;
    const { acting, damaged } = await load({
      ...{ kind: this.#kind, home: this.#home, databases: this.#databases, runsAsRoot, log },
      ...{ authorityDir: this.authorityDir, found: this.#entries, spares: this.#spares.entries },
    });
    this.#damaged = damaged;
    this.#acting = acting;
    return acting;
  }

  async #settlePool(entry: Entry, acting: Acting): Promise<void> {
    await this.#pooling?.settle(entry, acting, () => this.#freePort());
    if (this.#poolingSeen(entry)?.state === "running") entry.poolFailures = 0;
  }

  readonly #poolingSeen = (entry: Entry) => this.#pooling?.view(entry) ?? null;

  #get(key: string): Entry | undefined {
    const damage = this.#damaged.get(key);
    if (damage) throw new HostError("INTERNAL", 500, damage, { reason: "state_damaged" });
    const entry = this.#entries.get(key);
    // The server before an upgrade is nobody's database.
    return entry?.state.standsBy === null ? entry : undefined;
  }

  #view(entry: Entry, { limits }: Acting): HostedDatabase {
    return viewOf(
      entry,
      this.#kind,
      limits.hasMemory,
      this.#poolingSeen(entry),
      wayBackOf(entry, this.#entries),
    );
  }

  async #remove(entry: Entry, acting: Acting): Promise<void> {
    await this.#pooling?.stop(entry);
    await removeDatabase(entry, acting);
    if (this.#entries.get(entry.state.key) === entry) this.#entries.delete(entry.state.key);
    this.#spares.entries.delete(entry.state.home);
  }

  async #withReady<T>(key: string, work: (entry: Entry, acting: Acting) => Promise<T>): Promise<T> {
    const acting = await this.#open();
    return this.#turns.run(key, () => {
      const entry = this.#get(key);
      if (entry?.state.phase !== "ready") throw notFound(key);
      return work(entry, acting);
    });
  }

  #states(): DatabaseState[] {
    return [...this.#entries.values(), ...this.#spares.entries.values()].map(({ state }) => state);
  }

  get #databases(): string {
    return join(this.#home, "databases");
  }
}
