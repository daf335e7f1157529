import { readFileSync } from "node:fs";
import { join } from "node:path";
import { waitFor } from "@platform/daemon";
import type { LoginProof, PoolingSeen } from "@platform/host-api";
import { isAlive, isPortFree, type ProcessIdentity } from "@platform/postgres";
import type { Authority } from "../../dedicated/authority.ts";
import { loginOf, save, type Entry } from "../../dedicated/entry.ts";
import type { Pooling, PoolingParts, Share } from "../../dedicated/pooling.ts";
import { withLogin } from "../login.ts";
import { PoolDoor } from "./door.ts";
import {
  findPgbouncer,
  installLine,
  poolerLog,
  previewsName,
  runningPooler,
  sharesOf,
  startPgbouncer,
  writeSettings,
  type Watcher,
} from "./pgbouncer.ts";

const settleMs = 15_000;
/** What the pooler calls its own, of which watchers see something. */
const ownDatabase = "pgbouncer";

interface Pool {
  process: ProcessIdentity | null;
  /** Of production, and of previews. */
  doors: readonly PoolDoor[];
  usernames: ReadonlySet<string>;
  seen: PoolingSeen;
}

/**
 * pgbouncer beside each server, in transaction mode, and the doors in front of it. The process outlives
 * this daemon; the doors are this daemon's, as the way of boxes to their databases is.
 */
export class PostgresPooling implements Pooling {
  readonly #pools = new Map<string, Pool>();

  view({ state }: Entry): PoolingSeen {
    const pool = this.#pools.get(state.key);
    if (!pool) return seen(state.pool?.port ?? null, "stopped", "not_started", null);
    const { seen: last } = pool;
    if (last.state !== "running" || this.#isUp(pool)) return last;
    return seen(last.port, "failed", "unreachable", "The pooler ended and is being started again.");
  }

  needsCare({ state }: Entry): boolean {
    const pool = this.#pools.get(state.key);
    if (!pool) return true;
    if (pool.seen.state === "unavailable") return findPgbouncer() !== null;
    return !this.#isUp(pool) || pool.seen.state !== "running";
  }

  async settle(entry: Entry, acting: PoolingParts, nextPort: () => Promise<number>): Promise<void> {
    const { key } = entry.state;
    const pool: Pool = this.#pools.get(key) ?? {
      ...{ process: null, doors: [], usernames: new Set<string>() },
      seen: seen(null, "failed", "starting", "No login was made yet."),
    };
    this.#pools.set(key, pool);
    if (findPgbouncer() === null) {
      pool.seen = seen(null, "unavailable", "engine_missing", `Needed: ${installLine}`);
      return;
    }
    try {
      await this.#bringUp(entry, pool, acting, nextPort);
      await this.#awaitLogin(entry, pool, acting);
    } catch (error) {
      const detail = `${(error as Error).message} ${poolerLog(entry)}`.trim();
      pool.seen = seen(entry.state.pool?.port ?? null, "failed", "start_failed", detail);
    }
  }

  async prove(entry: Entry, { kind, authority }: PoolingParts): Promise<void> {
    const pool = this.#pools.get(entry.state.key);
    const port = entry.state.pool?.port;
    if (!pool || port === undefined || pool.seen.state === "unavailable") return;
    note(pool, port, await kind.prove({ ...loginOf(entry, authority), port }));
  }

  place({ state }: Entry, port: number, share: Share): { port: number; most: number | null } {
    const isPreview = share === "previews";
    if (state.pool?.port === port) return { port: isPreview ? state.pool.previewsPort : port, most: null };
    const { previewsDirect } = sharesOf(state.spec.memoryBytes);
    return { port: state.port, most: isPreview ? previewsDirect : null };
  }

  async stop(entry: Entry): Promise<void> {
    const pool = this.#pools.get(entry.state.key);
    this.#pools.delete(entry.state.key);
    for (const door of pool?.doors ?? []) await door.close();
    const process = pool?.process ?? runningPooler(entry);
    if (process) await end(process);
  }

  async close(): Promise<void> {
    const pools = [...this.#pools.values()];
    this.#pools.clear();
    for (const { doors } of pools) for (const door of doors) await door.close();
  }

  #isUp(pool: Pool): boolean {
    return (
      pool.process !== null && isAlive(pool.process) && pool.doors.every(({ isListening }) => isListening)
    );
  }

  async #bringUp(
    entry: Entry,
    pool: Pool,
    { authority, limits }: PoolingParts,
    nextPort: () => Promise<number>,
  ): Promise<void> {
    if (entry.state.pool === null) {
      const [port, previewsPort, innerPort] = [await nextPort(), await nextPort(), await nextPort()];
      save(entry, { pool: { port, previewsPort, innerPort } });
    }
    const ports = entry.state.pool!;
    let watcher = writeSettings(entry, authority, ports.innerPort);
    const usernames = accountsOf(entry);
    pool.process = pool.process && isAlive(pool.process) ? pool.process : runningPooler(entry);
    if (pool.process) process.kill(pool.process.pid, "SIGHUP");
    else {
      if (!(await isPortFree(ports.innerPort)))
        save(entry, { pool: { ...ports, innerPort: await nextPort() } });
      watcher = writeSettings(entry, authority, entry.state.pool!.innerPort);
      pool.process = await startPgbouncer(entry);
      await limits.hold(entry.state, pool.process.pid);
    }
    await this.#openDoors(entry, pool);
    await awaitReading(entry, authority, pool.process, watcher);
    const gone = [...pool.usernames].filter((name) => !usernames.has(name));
    for (const door of pool.doors) door.endSessions(new Set(gone));
    pool.usernames = usernames;
  }

  async #openDoors(entry: Entry, pool: Pool): Promise<void> {
    const { state, folders } = entry;
    const { port, previewsPort, innerPort } = state.pool!;
    const isSame = pool.doors.every((door) => door.isListening && door.poolerPort === innerPort);
    if (pool.doors.length > 0 && isSame) return;
    for (const door of pool.doors) await door.close();
    pool.doors = [];
    const read = (name: string) => readFileSync(join(folders.data, name), "utf8");
    const options = {
      ...{ certificate: read("server.crt"), key: read("server.key") },
      ...{ poolerPort: innerPort, database: state.database },
    };
    const doors = [
      { at: port, door: new PoolDoor({ ...options, share: state.database }) },
      { at: previewsPort, door: new PoolDoor({ ...options, share: previewsName(state.database) }) },
    ];
    for (const { at, door } of doors) await door.listen(at);
    pool.doors = doors.map(({ door }) => door);
  }

  async #awaitLogin(entry: Entry, pool: Pool, { kind, authority }: PoolingParts): Promise<void> {
    const port = entry.state.pool!.port;
    const login = { ...loginOf(entry, authority), port };
    const proof = await waitFor(
      "a login through the pooler",
      async () => {
        const made = await kind.prove(login);
        const isComing = ["auth_failed", "unreachable", "starting"].includes(made.reason ?? "");
        const alive = pool.process !== null && isAlive(pool.process);
        return made.ok || !isComing || !alive ? made : false;
      },
      settleMs,
      20,
    );
    note(pool, port, proof);
  }
}

/** Who is new comes in, and who is gone does not, only once the pooler has read its files again. */
async function awaitReading(
  entry: Entry,
  authority: Authority,
  process: ProcessIdentity,
  watcher: Watcher,
): Promise<void> {
  const login = {
    ...loginOf(entry, authority, watcher),
    port: entry.state.pool!.port,
    database: ownDatabase,
  };
  const isIn = () =>
    withLogin(login, async () => true, 5000).catch(() => {
      // The files before, or the pooler is just coming up.
      return false;
    });
  const isOver = async () => !isAlive(process) || (await isIn());
  await waitFor("the pooler to read its settings", isOver, settleMs, 20);
}

function seen(
  port: number | null,
  state: PoolingSeen["state"],
  reason: string | null,
  detail: string | null,
): PoolingSeen {
  return { state, mode: "transaction", port, reason, detail, at: new Date().toISOString() };
}

function note(pool: Pool, port: number, proof: LoginProof): void {
  pool.seen = seen(port, proof.ok ? "running" : "failed", proof.reason, proof.detail);
}

const accountsOf = ({ state }: Entry) =>
  new Set([state, ...state.oldAccounts, ...state.users].map(({ username }) => username));

/** It has nothing to write down. */
async function end(identity: ProcessIdentity): Promise<void> {
  try {
    process.kill(identity.pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
  await waitFor("the pooler to end", () => !isAlive(identity), 10_000, 10);
}
