import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, rmSync, statSync, truncateSync } from "node:fs";
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
} from "@platform/host-api";
import { isAlive, lastLines, serverHome } from "@platform/postgres";
import type { DatabaseEngine, EngineSpec } from "../engine.ts";
import { assertRoom, freePort, freeUid } from "./allocation.ts";
import { openAuthority } from "./authority.ts";
import { manifestOf } from "./backup.ts";
import type { Manifest } from "./manifest.ts";
import { foldersOf, readState, writeState, type DatabaseState } from "./database-state.ts";
import {
  assertSameSpec,
  credentialsOf,
  failureOf,
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
import { openServerLimits, type ServerLimits } from "./limits.ts";
import { fill, proveFirst, startFirst } from "./making.ts";
import { judge, statsOf } from "./observe.ts";
import { bringUp, dropOldAccounts, halt, removeDatabase, settleAccount, type Acting } from "./server.ts";
import { Turns } from "./turns.ts";
import { assertAlive, dropUser, newAccount, putUser } from "./users.ts";

const logLimitBytes = 16 * 1024 * 1024;

/** The server runs and answers; starting it again would cure none of these. */
const cannotBeRevived = new Set(["disk_full", "read_only", "too_many_connections", "auth_failed"]);

export interface EngineOptions {
  /** Folder of this engine alone. */
  dataDir: string;
  log: Log;
  runsAsRoot: boolean;
  /** Where the authority of the servers' certificates lies; engines of one host share it. */
  authorityDir?: string;
  /** Pause between two looks at the servers, in milliseconds. */
  superviseEveryMs?: number;
}

/** A managed engine with a server for each database: what all kinds have in common. */
export class DedicatedEngine implements DatabaseEngine {
  readonly #kind: ServerKind;
  readonly #options: EngineOptions;
  readonly #home: string;
  readonly #log: Log;
  readonly #asRoot: boolean;
  readonly #entries = new Map<string, Entry>();
  /** Databases whose state cannot be read: neither served nor touched, nor reported as absent. */
  readonly #damaged = new Map<string, string>();
  readonly #turns = new Turns();
  readonly #timer: NodeJS.Timeout;
  #opened: Promise<Acting> | null = null;
  #limits: ServerLimits | null = null;
  #closed = false;

  constructor(kind: ServerKind, options: EngineOptions) {
    this.#kind = kind;
    this.#options = options;
    this.#home = serverHome(options.dataDir);
    this.#log = options.log;
    this.#asRoot = options.runsAsRoot;
    mkdirSync(this.#databases, { recursive: true, mode: 0o711 });
    this.#timer = setInterval(() => this.#supervise(), options.superviseEveryMs ?? 500);
    this.#timer.unref();
  }

  /** Stops looking after the servers; they go on. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    await this.#turns.idle();
    await (await this.#opened)?.limits.forget();
  }

  /** Where the key of the authority lies that signs every server's certificate here. */
  get authorityDir(): string {
    return this.#options.authorityDir ?? join(this.#home, "authority");
  }

  get engine() {
    return this.#kind.engine;
  }

  report() {
    return this.#kind.report();
  }

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
      this.#assertSize(spec);
      assertRoom(this.#home);
      const entry = await this.#reserve(key, spec, version, acting.limits);
      try {
        await this.#prepare(entry, acting);
        faultPoint(`host.${this.engine}.after-clone`);
        await this.#furnish(entry, acting, signal);
        faultPoint(`host.${this.engine}.before-state`);
        save(entry, { phase: "ready" });
        return this.#view(entry, acting);
      } catch (error) {
        await this.#remove(entry, acting);
        throw error;
      }
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
    if (manifest.engine !== this.engine || manifest.major !== spec.version) {
      const message = `The backup is of ${manifest.engine} ${manifest.major}. Restore it into a database of the same engine and version.`;
      throw new HostError("INVALID", 422, message, { reason: "backup_of_other_engine" });
    }
    return this.#turns.run(key, async () => {
      const existing = this.#get(key);
      if (existing?.state.phase === "ready") return this.#view(existing, acting);
      if (existing) await this.#remove(existing, acting);
      const version = await this.#kind.exactVersion(spec.version);
      assertRoom(this.#home);
      const entry = await this.#reserve(key, spec, version, acting.limits);
      const { database, owner } = manifest;
      save(entry, this.engine === "redis" ? {} : { database, owner });
      try {
        await fill(entry, acting, () =>
          this.#kind.backup.unpack(entry, manifest, frames, acting.authority, targetTime),
        );
        faultPoint(`host.${this.engine}.after-unpack`);
        // The accounts of Redis are no part of its data.
        const password = this.engine === "redis" ? entry.state.superuserPassword : manifest.superuserPassword;
        await startFirst(entry, acting, signal, () => this.#freePort(), password);
        await this.#kind.backup.adopt(entry, manifest, acting.authority);
        await proveFirst(entry, acting);
        faultPoint(`host.${this.engine}.restored`);
        save(entry, { phase: "ready" });
        return this.#view(entry, acting);
      } catch (error) {
        await this.#remove(entry, acting);
        if (error instanceof HostError) throw error;
        const message = `The backup could not be restored: ${(error as Error).message.slice(0, 500)}`;
        throw new HostError("INVALID", 422, message, { reason: "restore_failed" }, { cause: error });
      }
    });
  }

  #assertSize({ memoryBytes }: EngineSpec): void {
    const least = this.#kind.leastMemoryBytes;
    if (memoryBytes >= least) return;
    const mib = (bytes: number) => Math.round(bytes / 1024 / 1024);
    throw new HostError(
      "INVALID",
      422,
      `${mib(memoryBytes)} MiB are too little for ${this.engine}: give it ${mib(least)} or more.`,
      { reason: "memory_too_small" },
    );
  }

  /** Writes down uid, port and names before anything exists that would have to be found again. */
  async #reserve(key: string, spec: EngineSpec, version: string, limits: ServerLimits): Promise<Entry> {
    // Choosing and recording are one turn, so that two creations never choose alike.
    return this.#turns.run("reserve", async () => {
      const folders = foldersOf(this.#databases, key, limits.hasDisk);
      const { username, password } = newAccount();
      const state: DatabaseState = {
        ...{ key, spec, version, username, password },
        phase: "creating",
        wanted: "running",
        uid: this.#asRoot ? freeUid(this.#states(), this.#home) : null,
        port: await freePort(this.#states()),
        database: this.#kind.databaseName(),
        owner: username,
        pendingAccount: null,
        oldAccounts: [],
        users: [],
        superuserPassword: randomBytes(24).toString("base64url"),
        hasDisk: limits.hasDisk,
        restricted: false,
      };
      mkdirSync(folders.root, { mode: 0o711 });
      writeState(folders, state);
      const entry = newEntry(state, folders);
      this.#entries.set(key, entry);
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

  async #furnish(entry: Entry, acting: Acting, signal: AbortSignal): Promise<void> {
    await startFirst(entry, acting, signal, () => this.#freePort());
    await acting.kind.furnish(entry, acting.authority);
    faultPoint(`host.${this.engine}.after-role`);
    signal.throwIfAborted();
    await proveFirst(entry, acting);
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
    return [...this.#entries.values()].map((entry) => this.#view(entry, acting));
  }

  start(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, acting) => {
      if (entry.state.wanted !== "running") save(entry, { wanted: "running" });
      const proof = await bringUp(entry, acting);
      if (!proof.ok) throw loginFailed(entry, proof);
      return this.#view(entry, acting);
    });
  }

  stop(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, acting) => {
      save(entry, { wanted: "stopped" });
      await halt(entry, this.#kind);
      return this.#view(entry, acting);
    });
  }

  credentials(key: string): Promise<DatabaseCredentials> {
    return this.#withReady(key, async (entry, { authority }) =>
      credentialsOf(this.#kind, entry.state, authority),
    );
  }

  /** Both accounts hold until `endRotation`. */
  rotate(key: string): Promise<DatabaseCredentials> {
    return this.#withReady(key, async (entry, acting) => {
      assertAlive(entry);
      if (entry.state.pendingAccount === null) save(entry, { pendingAccount: newAccount() });
      faultPoint(`host.${this.engine}.rotation-noted`);
      entry.proof = await settleAccount(entry, acting);
      entry.failure = null;
      return credentialsOf(this.#kind, entry.state, acting.authority);
    });
  }

  endRotation(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, acting) => {
      assertAlive(entry);
      await dropOldAccounts(entry, acting);
      return this.#view(entry, acting);
    });
  }

  putUser(key: string, name: string, access: "owner" | "read"): Promise<DatabaseCredentials> {
    return this.#withReady(key, (entry, acting) => putUser(entry, acting, name, access));
  }

  /** Names and access of the users beside the main one. */
  users(key: string): Promise<{ name: string; username: string; access: "owner" | "read" }[]> {
    return this.#withReady(key, async (entry) =>
      entry.state.users.map(({ name, username, access }) => ({ name, username, access })),
    );
  }

  dropUser(key: string, name: string): Promise<void> {
    return this.#withReady(key, (entry, acting) => dropUser(entry, acting, name));
  }

  async probe(key: string, dial?: Dial): Promise<LoginProof> {
    const acting = await this.#open();
    const entry = this.#get(key);
    if (!entry) throw notFound(key);
    const login = loginOf(entry, acting.authority);
    const proof = await judge(entry, acting, await this.#kind.prove(dial ? { ...login, dial } : login));
    entry.proof = proof;
    entry.failure = proof.ok ? null : failureOf(proof);
    return proof;
  }

  async stats(key: string): Promise<DatabaseStats> {
    const acting = await this.#open();
    const entry = this.#get(key);
    if (!entry) throw notFound(key);
    return statsOf(entry, acting);
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
      save(entry, { phase: "deleting" });
      await this.#remove(entry, acting);
    });
  }

  async recover(): Promise<void> {
    const acting = await this.#open();
    await Promise.all(
      [...this.#entries.keys()].map((key) =>
        this.#turns.run(key, async () => {
          const entry = this.#get(key);
          if (entry?.state.phase !== "ready") return;
          if (entry.state.wanted === "stopped") return halt(entry, this.#kind);
          // A database that does not come up is reported as failed and tried again; it stops no other.
          await bringUp(entry, acting).catch((error: unknown) => this.#startFailed(entry, error));
        }),
      ),
    );
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
    const authority = await openAuthority(this.authorityDir);
    const { runsAsRoot, log } = this.#options;
    // The folder marks what is this engine's among the machine's control groups.
    const tag = createHash("sha256").update(this.#home).digest("hex").slice(0, 12);
    const limits = await openServerLimits({ home: this.#home, tag, runsAsRoot, log });
    this.#limits = limits;
    const acting = { kind: this.#kind, authority, limits };
    const incomplete: string[] = [];
    for (const key of readdirSync(this.#databases)) {
      const state = this.#readState(key);
      if (state === "damaged") continue;
      if (!state) {
        incomplete.push(key);
        continue;
      }
      const folders = foldersOf(this.#databases, key, state.hasDisk);
      const entry = newEntry(state, folders);
      entry.server = this.#kind.running(entry);
      entry.oomKills = await limits.oomKills(key);
      this.#entries.set(key, entry);
      if (state.phase !== "ready") await this.#remove(entry, acting);
    }
    await limits.sweep(new Set([...this.#entries.keys(), ...this.#damaged.keys()]));
    for (const key of incomplete)
      rmSync(foldersOf(this.#databases, key, false).root, { recursive: true, force: true });
    return acting;
  }

  #readState(key: string): DatabaseState | null | "damaged" {
    try {
      return readState(this.#databases, key);
    } catch (error) {
      this.#log.error(
        { err: error, database: key },
        "the state of a database cannot be read; it is left alone",
      );
      const { stateFile } = foldersOf(this.#databases, key, false);
      this.#damaged.set(key, `${stateFile} cannot be read. Put it back from a backup.`);
      return "damaged";
    }
  }

  #get(key: string): Entry | undefined {
    const damage = this.#damaged.get(key);
    if (damage) throw new HostError("INTERNAL", 500, damage, { reason: "state_damaged" });
    return this.#entries.get(key);
  }

  #view(entry: Entry, { limits }: Acting): HostedDatabase {
    return viewOf(entry, this.#kind, limits.hasMemory);
  }

  async #remove(entry: Entry, acting: Acting): Promise<void> {
    await removeDatabase(entry, acting);
    this.#entries.delete(entry.state.key);
  }

  #supervise(): void {
    for (const [key, entry] of this.#entries) {
      const { state, server, failure } = entry;
      if (state.phase !== "ready" || this.#turns.isBusy(key)) continue;
      this.#limitLog(entry);
      if (server !== null && isAlive(server)) this.#watchQuota(key, entry);
      const isWell =
        server !== null && isAlive(server) && (failure === null || cannotBeRevived.has(failure.reason));
      if (state.wanted !== "running" || isWell || performance.now() < entry.nextStartAt) continue;
      void this.#turns
        .run(key, () => this.#revive(key, entry))
        .catch((error: unknown) => this.#startFailed(entry, error));
    }
  }

  #watchQuota(key: string, entry: Entry): void {
    const limits = this.#limits;
    const { quota } = this.#kind;
    if (limits === null || quota === null) return;
    const isOver = () => limits.disk(entry, this.#kind)?.isFull ?? false;
    if (isOver() === entry.state.restricted) return;
    const settle = this.#withReady(key, async (same, { authority }) => {
      const isRestricted = isOver();
      if (same.state.restricted === isRestricted) return;
      // Noted first: whatever account is made meanwhile then is held to it as well.
      save(same, { restricted: isRestricted });
      await quota.restrict(same, authority, isRestricted);
      if (!isRestricted) await limits.keepRoom(same);
    });
    settle.catch((error: unknown) =>
      this.#log.error(
        { err: error, database: key },
        "the size of a database could not be enforced; trying again",
      ),
    );
  }

  async #revive(key: string, entry: Entry): Promise<void> {
    if (this.#closed || this.#get(key) !== entry || entry.state.wanted !== "running") return;
    this.#log.warn(
      { database: key, pid: entry.server?.pid },
      "the database does not serve; bringing it up again",
    );
    const proof = await bringUp(entry, await this.#open());
    if (!proof.ok) throw loginFailed(entry, proof);
  }

  #startFailed(entry: Entry, error: unknown): void {
    entry.nextStartAt = performance.now() + Math.min(30_000, 250 * 2 ** Math.min(entry.failures++, 10));
    entry.failure ??= {
      reason: "start_failed",
      detail: error instanceof Error ? error.message : String(error),
    };
    this.#log.error({ err: error, database: entry.state.key }, "the database does not come up; trying again");
  }

  /** The server appends, so cutting the file is safe; a tenant's errors must not fill the disk. */
  #limitLog(entry: Entry): void {
    const size = statSync(entry.folders.logFile, { throwIfNoEntry: false })?.size ?? 0;
    if (size > logLimitBytes) truncateSync(entry.folders.logFile, 0);
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
    return [...this.#entries.values()].map(({ state }) => state);
  }

  get #databases(): string {
    return join(this.#home, "databases");
  }
}
