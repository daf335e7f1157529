import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, rmSync, statSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { faultPoint, type Log } from "@platform/daemon";
import {
  HostError,
  type DatabaseCredentials,
  type DatabaseStats,
  type HostedDatabase,
  type LoginProof,
} from "@platform/host-api";
import { isAlive, lastLines, runningServer, serverHome } from "@platform/postgres";
import type { DatabaseEngine, EngineSpec } from "../engine.ts";
import { assertRoom, freePort, freeUid } from "./allocation.ts";
import { openAuthority, type Authority } from "./authority.ts";
import { cloneCluster, prepareTemplate } from "./cluster.ts";
import {
  foldersOf,
  readState,
  writeState,
  type DatabaseFolders,
  type DatabaseState,
} from "./database-state.ts";
import {
  assertSameSpec,
  credentialsOf,
  failureOf,
  loginFailed,
  newEntry,
  notFound,
  save,
  viewOf,
  type Entry,
} from "./entry.ts";
import { createAndDropTable, prove, superuserLogin, tenantLogin } from "./login.ts";
import { diskUsage, memoryOf, processTree } from "./measure.ts";
import { countSessions, makeRoleAndDatabase, secureServer } from "./roles.ts";
import { awaitLogin, bringUp, halt, launch, removeDatabase, settlePassword } from "./server.ts";
import { Turns } from "./turns.ts";
import { binariesOf, reportVersions } from "./versions.ts";

const logLimitBytes = 16 * 1024 * 1024;

export interface PostgresEngineOptions {
  /** Folder of this engine alone. */
  dataDir: string;
  log: Log;
  runsAsRoot: boolean;
  /** Pause between two looks at the servers, in milliseconds. */
  superviseEveryMs?: number;
}

export class PostgresEngine implements DatabaseEngine {
  readonly engine = "postgresql";
  readonly #home: string;
  readonly #log: Log;
  readonly #asRoot: boolean;
  readonly #entries = new Map<string, Entry>();
  /** Databases whose state cannot be read: neither served nor touched, nor reported as absent. */
  readonly #damaged = new Map<string, string>();
  readonly #turns = new Turns();
  readonly #timer: NodeJS.Timeout;
  #opened: Promise<Authority> | null = null;
  #closed = false;

  constructor(options: PostgresEngineOptions) {
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
  }

  report() {
    return reportVersions();
  }

  async create(key: string, spec: EngineSpec, signal: AbortSignal): Promise<HostedDatabase> {
    const authority = await this.#open();
    return this.#turns.run(key, async () => {
      const existing = this.#get(key);
      if (existing?.state.phase === "ready") {
        assertSameSpec(existing.state, spec);
        return viewOf(existing);
      }
      if (existing) await this.#remove(existing);
      signal.throwIfAborted();
      assertRoom(this.#home);
      const binaries = await binariesOf(spec.version);
      const template = await this.#turns.run(`template ${spec.version}`, () =>
        prepareTemplate(join(this.#home, "templates"), spec.version, binaries),
      );
      const entry = await this.#reserve(key, spec, binaries.version);
      try {
        await cloneCluster(template, entry.folders, entry.state, authority);
        faultPoint("host.postgres.after-clone");
        await this.#furnish(entry, template.password, authority, signal);
        faultPoint("host.postgres.before-state");
        save(entry, { phase: "ready" });
        return viewOf(entry);
      } catch (error) {
        await this.#remove(entry);
        throw error;
      }
    });
  }

  /** Writes down uid, port and names before anything exists that would have to be found again. */
  async #reserve(key: string, spec: EngineSpec, version: string): Promise<Entry> {
    // Choosing and recording are one turn, so that two creations never choose alike.
    return this.#turns.run("reserve", async () => {
      const folders = foldersOf(this.#databases, key);
      const secret = () => randomBytes(24).toString("base64url");
      const state: DatabaseState = {
        key,
        spec,
        phase: "creating",
        wanted: "running",
        version,
        uid: this.#asRoot ? freeUid(this.#states(), this.#home) : null,
        port: await freePort(this.#states()),
        database: `d_${randomBytes(8).toString("hex")}`,
        username: `u_${randomBytes(8).toString("hex")}`,
        password: secret(),
        pendingPassword: null,
        superuserPassword: secret(),
      };
      mkdirSync(folders.root, { mode: 0o711 });
      writeState(folders, state);
      const entry = newEntry(state, folders);
      this.#entries.set(key, entry);
      return entry;
    });
  }

  async #furnish(
    entry: Entry,
    templatePassword: string,
    authority: Authority,
    signal: AbortSignal,
  ): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      signal.throwIfAborted();
      await launch(entry);
      const proof = await awaitLogin(entry, () =>
        prove({ ...superuserLogin(entry.state, authority.certificate), password: templatePassword }),
      );
      if (proof.ok) break;
      await halt(entry);
      if (attempt === 2) throw loginFailed(entry, proof);
      save(entry, { port: await freePort(this.#states()) });
    }
    faultPoint("host.postgres.after-start");
    signal.throwIfAborted();
    await secureServer(entry.state, authority.certificate, templatePassword);
    await makeRoleAndDatabase(entry.state, authority.certificate);
    faultPoint("host.postgres.after-role");
    signal.throwIfAborted();
    const proof = await prove(tenantLogin(entry.state, authority.certificate), createAndDropTable);
    if (!proof.ok) throw loginFailed(entry, proof);
    entry.proof = proof;
  }

  async find(key: string): Promise<HostedDatabase | null> {
    await this.#open();
    const entry = this.#get(key);
    return entry ? viewOf(entry) : null;
  }

  async list(): Promise<HostedDatabase[]> {
    await this.#open();
    return [...this.#entries.values()].map((entry) => viewOf(entry));
  }

  start(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, authority) => {
      if (entry.state.wanted !== "running") save(entry, { wanted: "running" });
      const proof = await bringUp(entry, authority);
      if (!proof.ok) throw loginFailed(entry, proof);
      return viewOf(entry);
    });
  }

  stop(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry) => {
      save(entry, { wanted: "stopped" });
      await halt(entry);
      return viewOf(entry);
    });
  }

  credentials(key: string): Promise<DatabaseCredentials> {
    return this.#withReady(key, async (entry, authority) => credentialsOf(entry.state, authority));
  }

  rotate(key: string): Promise<DatabaseCredentials> {
    return this.#withReady(key, async (entry, authority) => {
      if (!entry.server || !isAlive(entry.server)) {
        throw new HostError("CONFLICT", 409, `Database ${key} is not running. Start it, then rotate.`, {
          reason: "not_running",
        });
      }
      const old = entry.state.password;
      if (entry.state.pendingPassword === null) {
        save(entry, { pendingPassword: randomBytes(24).toString("base64url") });
      }
      entry.proof = await settlePassword(entry, authority);
      const refused = await prove(tenantLogin(entry.state, authority.certificate, old));
      if (refused.reason !== "auth_failed") {
        const detail = `the old password was not refused (${refused.reason ?? "it logged in"})`;
        throw new HostError("LOGIN_FAILED", 502, `Rotation of ${key}: ${detail}. Rotate again.`, {
          reason: "old_password_accepted",
        });
      }
      return credentialsOf(entry.state, authority);
    });
  }

  async probe(key: string): Promise<LoginProof> {
    const authority = await this.#open();
    const entry = this.#get(key);
    if (!entry) throw notFound(key);
    const proof = await prove(tenantLogin(entry.state, authority.certificate));
    entry.proof = proof;
    entry.failure = proof.ok ? null : failureOf(proof);
    return proof;
  }

  async stats(key: string): Promise<DatabaseStats> {
    const authority = await this.#open();
    const entry = this.#get(key);
    if (!entry) throw notFound(key);
    const storageBytes = diskUsage(entry.folders.root);
    const { server } = entry;
    if (!server || !isAlive(server)) {
      return { storageBytes, memoryBytes: null, connections: null, uptimeSec: null };
    }
    const memoryBytes = memoryOf(processTree(server.pid));
    const counted = await countSessions(entry.state, authority.certificate).catch(() => undefined); // Disk and memory are known also of a server that lets nobody in.
    return {
      storageBytes,
      memoryBytes,
      connections: counted?.connections ?? null,
      uptimeSec: counted?.uptimeSec ?? null,
    };
  }

  async logs(key: string, lines: number): Promise<string[]> {
    await this.#open();
    const entry = this.#get(key);
    if (!entry) throw notFound(key);
    const text = lastLines(entry.folders.logFile, lines, 1024 * 1024);
    return text === "" ? [] : text.split("\n");
  }

  async destroy(key: string): Promise<void> {
    await this.#open();
    await this.#turns.run(key, async () => {
      const entry = this.#get(key);
      if (!entry) return;
      save(entry, { phase: "deleting" });
      await this.#remove(entry);
    });
  }

  async recover(): Promise<void> {
    const authority = await this.#open();
    await Promise.all(
      [...this.#entries.keys()].map((key) =>
        this.#turns.run(key, async () => {
          const entry = this.#get(key);
          if (entry?.state.phase !== "ready") return;
          if (entry.state.wanted === "stopped") return halt(entry);
          // A database that does not come up is reported as failed and tried again; it stops no other.
          await bringUp(entry, authority).catch((error: unknown) => this.#startFailed(entry, error));
        }),
      ),
    );
  }

  /** PEM of the authority that signs every server's certificate here. */
  async certificateAuthority(): Promise<string> {
    return (await this.#open()).certificate;
  }

  /** Opens the authority and reads what is on disk, once; removes what no state was completed for. */
  #open(): Promise<Authority> {
    this.#opened ??= this.#load().catch((error: unknown) => {
      this.#opened = null;
      throw error;
    });
    return this.#opened;
  }

  async #load(): Promise<Authority> {
    const authority = await openAuthority(join(this.#home, "authority"));
    for (const key of readdirSync(this.#databases)) {
      const folders = foldersOf(this.#databases, key);
      const state = this.#readState(key, folders);
      if (state === "damaged") continue;
      if (!state) {
        rmSync(folders.root, { recursive: true, force: true });
        continue;
      }
      const entry = newEntry(state, folders);
      entry.server = runningServer(folders.cluster);
      this.#entries.set(key, entry);
      if (state.phase !== "ready") await this.#remove(entry);
    }
    return authority;
  }

  #readState(key: string, folders: DatabaseFolders): DatabaseState | null | "damaged" {
    try {
      return readState(folders);
    } catch (error) {
      this.#log.error(
        { err: error, database: key },
        "the state of a database cannot be read; it is left alone",
      );
      this.#damaged.set(key, `${folders.stateFile} cannot be read. Put it back from a backup.`);
      return "damaged";
    }
  }

  #get(key: string): Entry | undefined {
    const damage = this.#damaged.get(key);
    if (damage) throw new HostError("INTERNAL", 500, damage, { reason: "state_damaged" });
    return this.#entries.get(key);
  }

  async #remove(entry: Entry): Promise<void> {
    await removeDatabase(entry);
    this.#entries.delete(entry.state.key);
  }

  #supervise(): void {
    for (const [key, entry] of this.#entries) {
      const { state, server } = entry;
      if (state.phase !== "ready" || this.#turns.isBusy(key)) continue;
      this.#limitLog(entry);
      const isWell = server !== null && isAlive(server) && entry.failure === null;
      if (state.wanted !== "running" || isWell || performance.now() < entry.nextStartAt) continue;
      void this.#turns
        .run(key, () => this.#revive(key, entry))
        .catch((error: unknown) => this.#startFailed(entry, error));
    }
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

  async #withReady<T>(key: string, work: (entry: Entry, authority: Authority) => Promise<T>): Promise<T> {
    const authority = await this.#open();
    return this.#turns.run(key, () => {
      const entry = this.#get(key);
      if (entry?.state.phase !== "ready") throw notFound(key);
      return work(entry, authority);
    });
  }

  #states(): DatabaseState[] {
    return [...this.#entries.values()].map(({ state }) => state);
  }

  get #databases(): string {
    return join(this.#home, "databases");
  }
}
