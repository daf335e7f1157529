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
  type MigrationsDone,
  type MigrationsSpec,
  type QueryAnswer,
  type QueryRequest,
} from "@platform/host-api";
import type { z } from "zod";
import { lastLines, serverHome } from "@platform/postgres";
import type { DatabaseEngine, EngineSpec } from "../engine.ts";
import { manifestOf } from "./backup.ts";
import type { Manifest } from "./manifest.ts";
import {
  assertSameSpec,
  credentialsOf,
  loginFailed,
  loginOf,
  notFound,
  save,
  viewOf,
  type Entry,
} from "./entry.ts";
import type { ServerKind } from "./kind.ts";
import type { Dial } from "./login.ts";
import { load } from "./loading.ts";
import { logOf } from "./log-archive.ts";
import { assertSameMajor } from "./making.ts";
import { look, statsOf } from "./observe.ts";
import type { Pooling, Share } from "./pooling.ts";
import { bringUp, dropOldAccounts, halt, settleAccount, type Acting } from "./server.ts";
import type { SpareSettings } from "./spares.ts";
import { recover, supervise, type Watched } from "./supervision.ts";
import { Turns } from "./turns.ts";
import { forgetBefore, goBack, upgrade, wayBackOf } from "./upgrade.ts";
import { assertAlive, dropUser, newAccount, putUser } from "./users.ts";
import { Workshop } from "./workshop.ts";

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
  /** Databases whose state cannot be read: neither served nor touched, nor reported as absent. */
  #damaged: ReadonlyMap<string, string> = new Map();
  readonly #pooling: Pooling | null;
  readonly #turns = new Turns();
  readonly #workshop: Workshop;
  readonly #watched: Watched;
  readonly #timer: NodeJS.Timeout;
  #opened: Promise<Acting> | null = null;
  #acting: Acting | null = null;
  #closed = false;

  constructor(kind: ServerKind, options: EngineOptions) {
    this.engine = kind.engine;
    this.#kind = kind;
    this.#options = options;
    this.#home = serverHome(options.dataDir);
    this.#pooling = kind.openPooling?.() ?? null;
    this.#workshop = new Workshop({
      ...{ kind, home: this.#home, runsAsRoot: options.runsAsRoot, log: options.log },
      ...{ turns: this.#turns, pooling: this.#pooling, spares: options.spares ?? noSpares },
      open: () => this.#open(),
    });
    this.#watched = {
      ...{ entries: this.#workshop.entries, turns: this.#turns, pooling: this.#pooling, log: options.log },
      acting: () => this.#acting,
      isClosed: () => this.#closed,
      settlePool: (entry, acting) => this.#workshop.settlePool(entry, acting),
    };
    this.#timer = setInterval(() => supervise(this.#watched), options.superviseEveryMs ?? 500);
    this.#timer.unref();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    await this.#workshop.spares.close();
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
  spares = () => this.#workshop.spares.report();

  async create(key: string, spec: EngineSpec, signal: AbortSignal): Promise<HostedDatabase> {
    const acting = await this.#open();
    return this.#turns.run(key, async () => {
      const existing = this.#get(key);
      if (existing?.state.phase === "ready") {
        assertSameSpec(existing.state, spec);
        return this.#view(existing, acting);
      }
      if (existing) await this.#workshop.remove(existing, acting);
      signal.throwIfAborted();
      const entry = await this.#workshop.make(key, spec, acting, signal);
      await this.#workshop.settlePool(entry, acting);
      return this.#view(entry, acting);
    });
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
      if (existing) await this.#workshop.remove(existing, acting);
      const from = { manifest, frames, targetTime, signal };
      return this.#view(await this.#workshop.makeOfBackup(key, spec, acting, from), acting);
    });
  }

  async find(key: string): Promise<HostedDatabase | null> {
    const acting = await this.#open();
    const entry = this.#get(key);
    return entry ? this.#view(entry, acting) : null;
  }

  async list(): Promise<HostedDatabase[]> {
    const acting = await this.#open();
    const served = [...this.#workshop.entries.values()].filter(({ state }) => state.standsBy === null);
    return served.map((entry) => this.#view(entry, acting));
  }

  start(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, acting) => {
      if (entry.state.wanted !== "running") save(entry, { wanted: "running" });
      const proof = await bringUp(entry, acting);
      if (!proof.ok) throw loginFailed(entry, proof);
      await this.#workshop.settlePool(entry, acting);
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
      await this.#workshop.settlePool(entry, acting);
      return credentialsOf(this.#kind, entry.state, acting.authority, entry.state, this.#poolingSeen(entry));
    });
  }

  endRotation(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, acting) => {
      assertAlive(entry);
      await dropOldAccounts(entry, acting);
      await this.#workshop.settlePool(entry, acting);
      return this.#view(entry, acting);
    });
  }

  putUser(key: string, name: string, access: "owner" | "read"): Promise<DatabaseCredentials> {
    return this.#withReady(key, async (entry, acting) => {
      const { username, password } = await putUser(entry, acting, name, access);
      await this.#workshop.settlePool(entry, acting);
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
      await this.#workshop.settlePool(entry, acting);
    });
  }

  /** A newer server in its place, with the same address, accounts and content. */
  upgrade(key: string, version: string, signal: AbortSignal): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, acting) => {
      // What was asked for is there already.
      if (entry.state.spec.version === version) return this.#view(entry, acting);
      assertAlive(entry);
      return this.#view(await upgrade(entry, version, acting, this.#workshop, signal), acting);
    });
  }

  /** The server before the last upgrade in its place again. */
  goBack(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, acting) =>
      this.#view(await goBack(entry, acting, this.#workshop), acting),
    );
  }

  forgetBefore(key: string): Promise<void> {
    return this.#withReady(key, (_entry, acting) => forgetBefore(key, acting, this.#workshop));
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

  migrate(key: string, migrations: z.output<typeof MigrationsSpec>): Promise<MigrationsDone> {
    const { migrate } = this.#kind;
    if (!migrate) throw new HostError("UNSUPPORTED", 422, `${this.engine} takes no recorded migrations.`);
    return this.#withReady(key, async (entry, { authority }) => {
      assertAlive(entry);
      return migrate(loginOf(entry, authority), migrations);
    });
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
      await forgetBefore(key, acting, this.#workshop);
      save(entry, { phase: "deleting" });
      await this.#workshop.remove(entry, acting);
    });
  }

  async recover(): Promise<void> {
    const acting = await this.#open();
    await recover(this.#watched, acting);
    this.#workshop.spares.start();
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
      ...{ kind: this.#kind, home: this.#home, databases: this.#workshop.databases, runsAsRoot, log },
      ...{
        authorityDir: this.authorityDir,
        found: this.#workshop.entries,
        spares: this.#workshop.spares.entries,
      },
    });
    this.#damaged = damaged;
    this.#acting = acting;
    return acting;
  }

  readonly #poolingSeen = (entry: Entry) => this.#pooling?.view(entry) ?? null;

  #get(key: string): Entry | undefined {
    const damage = this.#damaged.get(key);
    if (damage) throw new HostError("INTERNAL", 500, damage, { reason: "state_damaged" });
    const entry = this.#workshop.entries.get(key);
    // The server before an upgrade is nobody's database.
    return entry?.state.standsBy === null ? entry : undefined;
  }

  #view(entry: Entry, { limits }: Acting): HostedDatabase {
    return viewOf(
      entry,
      this.#kind,
      limits.hasMemory,
      this.#poolingSeen(entry),
      wayBackOf(entry, this.#workshop.entries),
    );
  }

  async #withReady<T>(key: string, work: (entry: Entry, acting: Acting) => Promise<T>): Promise<T> {
    const acting = await this.#open();
    return this.#turns.run(key, () => {
      const entry = this.#get(key);
      if (entry?.state.phase !== "ready") throw notFound(key);
      return work(entry, acting);
    });
  }
}
