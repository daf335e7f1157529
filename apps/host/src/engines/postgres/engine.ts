import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, rmSync, statSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { faultPoint, waitFor, type Log } from "@platform/daemon";
import {
  HostError,
  type DatabaseCredentials,
  type DatabaseStats,
  type HostedDatabase,
  type LoginProof,
} from "@platform/host-api";
import { isAlive, lastLines, runningServer, serverHome, startServer, stopServer } from "@platform/postgres";
import type { DatabaseEngine, EngineSpec } from "../engine.ts";
import { assertRoom, freePort, freeUid } from "./allocation.ts";
import { openAuthority, type Authority } from "./authority.ts";
import { cloneCluster, prepareTemplate, serverSettings } from "./cluster.ts";
import { foldersOf, readState, writeState, type DatabaseState } from "./database-state.ts";
import {
  assertSameSpec,
  credentialsOf,
  failureOf,
  loginFailed,
  newEntry,
  notFound,
  viewOf,
  type Entry,
} from "./entry.ts";
import { createAndDropTable, prove, superuserLogin, tenantLogin } from "./login.ts";
import { diskUsage, endProcesses, memoryOf, processTree } from "./measure.ts";
import { changePassword, countSessions, makeRoleAndDatabase, secureServer } from "./roles.ts";
import { Turns } from "./turns.ts";
import { binariesOf, majorVersions } from "./versions.ts";

const startTimeoutMs = 60_000;
const stopTimeoutMs = 20_000;
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

  async report() {
    const failures: string[] = [];
    const versions: string[] = [];
    for (const major of majorVersions) {
      try {
        await binariesOf(major);
        versions.push(major);
      } catch (error) {
        failures.push(error instanceof Error ? error.message : String(error));
      }
    }
    return { usable: versions.length > 0, versions, why: failures.length > 0 ? failures.join(" ") : null };
  }

  async create(key: string, spec: EngineSpec, signal: AbortSignal): Promise<HostedDatabase> {
    const authority = await this.#open();
    return this.#turns.run(key, async () => {
      const existing = this.#entries.get(key);
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
        this.#save(entry, { phase: "ready" });
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
        uid: this.#asRoot ? freeUid(this.#states()) : null,
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
      await this.#launch(entry);
      const proof = await this.#awaitLogin(entry, () =>
        prove({ ...superuserLogin(entry.state, authority.certificate), password: templatePassword }),
      );
      if (proof.ok) break;
      await this.#halt(entry);
      if (attempt === 2) throw loginFailed(entry, proof);
      this.#save(entry, { port: await freePort(this.#states()) });
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
    const entry = this.#entries.get(key);
    return entry ? viewOf(entry) : null;
  }

  async list(): Promise<HostedDatabase[]> {
    await this.#open();
    return [...this.#entries.values()].map((entry) => viewOf(entry));
  }

  start(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry, authority) => {
      if (entry.state.wanted !== "running") this.#save(entry, { wanted: "running" });
      const proof = await this.#bringUp(entry, authority);
      if (!proof.ok) throw loginFailed(entry, proof);
      return viewOf(entry);
    });
  }

  stop(key: string): Promise<HostedDatabase> {
    return this.#withReady(key, async (entry) => {
      this.#save(entry, { wanted: "stopped" });
      await this.#halt(entry);
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
        this.#save(entry, { pendingPassword: randomBytes(24).toString("base64url") });
      }
      entry.proof = await this.#settlePassword(entry, authority);
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

  /** Makes the pending password the one that holds: safe to run again after a crash at any point. */
  async #settlePassword(entry: Entry, authority: Authority): Promise<LoginProof> {
    const { pendingPassword } = entry.state;
    if (pendingPassword === null) return prove(tenantLogin(entry.state, authority.certificate));
    await changePassword(entry.state, authority.certificate, pendingPassword);
    const proof = await prove(tenantLogin(entry.state, authority.certificate, pendingPassword));
    if (!proof.ok) throw loginFailed(entry, proof);
    this.#save(entry, { password: pendingPassword, pendingPassword: null });
    return proof;
  }

  async probe(key: string): Promise<LoginProof> {
    const authority = await this.#open();
    const entry = this.#entries.get(key);
    if (!entry) throw notFound(key);
    const proof = await prove(tenantLogin(entry.state, authority.certificate));
    entry.proof = proof;
    entry.failure = proof.ok ? null : failureOf(proof);
    return proof;
  }

  async stats(key: string): Promise<DatabaseStats> {
    const authority = await this.#open();
    const entry = this.#entries.get(key);
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
    const entry = this.#entries.get(key);
    if (!entry) throw notFound(key);
    const text = lastLines(entry.folders.logFile, lines, 1024 * 1024);
    return text === "" ? [] : text.split("\n");
  }

  async destroy(key: string): Promise<void> {
    await this.#open();
    await this.#turns.run(key, async () => {
      const entry = this.#entries.get(key);
      if (!entry) return;
      this.#save(entry, { phase: "deleting" });
      await this.#remove(entry);
    });
  }

  async recover(): Promise<void> {
    const authority = await this.#open();
    await Promise.all(
      [...this.#entries.keys()].map((key) =>
        this.#turns.run(key, async () => {
          const entry = this.#entries.get(key);
          if (entry?.state.phase !== "ready") return;
          if (entry.state.wanted === "stopped") return this.#halt(entry);
          // A database that does not come up is reported as failed and tried again; it stops no other.
          await this.#bringUp(entry, authority).catch((error: unknown) => this.#startFailed(entry, error));
        }),
      ),
    );
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
      const state = readState(folders);
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

  /** Adopts the server that runs, or starts one, and proves the login; `proof` says how it went. */
  async #bringUp(entry: Entry, authority: Authority): Promise<LoginProof> {
    entry.server = runningServer(entry.folders.cluster);
    if (!entry.server) await this.#launch(entry);
    const login = () => prove(tenantLogin(entry.state, authority.certificate));
    let proof: LoginProof;
    if (entry.state.pendingPassword === null) proof = await this.#awaitLogin(entry, login);
    else {
      await this.#awaitLogin(entry, () => prove(superuserLogin(entry.state, authority.certificate)));
      proof = await this.#settlePassword(entry, authority);
    }
    entry.proof = proof;
    entry.failure = proof.ok ? null : failureOf(proof);
    if (proof.ok) entry.failures = 0;
    return proof;
  }

  async #launch(entry: Entry): Promise<void> {
    // What was seen of the process before says nothing about this one.
    entry.proof = null;
    entry.failure = null;
    const { postgres } = await binariesOf(entry.state.spec.version);
    entry.server = await startServer({
      postgres,
      cluster: entry.folders.cluster,
      logFile: entry.folders.logFile,
      uid: entry.state.uid,
      settings: serverSettings(entry.state),
    });
  }

  /** Repeats a login while the server lives and only is not up yet. */
  async #awaitLogin(entry: Entry, login: () => Promise<LoginProof>): Promise<LoginProof> {
    return waitFor(
      `a login to database ${entry.state.key}`,
      async () => {
        const alive = entry.server !== null && isAlive(entry.server);
        const proof = await login();
        if (proof.ok) return proof;
        const isComing = proof.reason === "starting" || proof.reason === "unreachable";
        return alive && isComing ? false : proof;
      },
      startTimeoutMs,
    );
  }

  async #halt(entry: Entry): Promise<void> {
    const server = entry.server ?? runningServer(entry.folders.cluster);
    if (server) await stopServer(server, stopTimeoutMs);
    entry.server = null;
    entry.proof = null;
    entry.failure = null;
  }

  async #remove(entry: Entry): Promise<void> {
    await this.#halt(entry);
    const { uid } = entry.state;
    // A killed server leaves workers that end on their own, a little later.
    if (uid !== null) {
      await waitFor("the server's processes to end", () => endProcesses(uid), stopTimeoutMs);
    }
    rmSync(entry.folders.root, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
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
    if (this.#closed || this.#entries.get(key) !== entry || entry.state.wanted !== "running") return;
    this.#log.warn(
      { database: key, pid: entry.server?.pid },
      "the database does not serve; bringing it up again",
    );
    const proof = await this.#bringUp(entry, await this.#open());
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
      const entry = this.#entries.get(key);
      if (entry?.state.phase !== "ready") throw notFound(key);
      return work(entry, authority);
    });
  }

  #save(entry: Entry, change: Partial<DatabaseState>): void {
    const state = { ...entry.state, ...change };
    writeState(entry.folders, state);
    entry.state = state;
  }

  #states(): DatabaseState[] {
    return [...this.#entries.values()].map(({ state }) => state);
  }

  get #databases(): string {
    return join(this.#home, "databases");
  }
}
