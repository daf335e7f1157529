import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { Redis } from "ioredis";
import { createConnection } from "mysql2/promise";
import { Client } from "pg";
import { waitFor } from "@platform/daemon";
import { loginOptions } from "@platform/postgres";
import { needsGroups, startBoxes, whyNoBoxes, type Boxes } from "../testing-boxes.ts";
import { ask, until } from "../testing-databases.ts";

type Row = Record<string, unknown>;
const skip = whyNoBoxes() ?? false;
const needed = { skip: needsGroups };

/** A database, what was last proved of it, and what was told of it. */
class Watched {
  readonly boxes: Boxes;
  readonly id: string;
  constructor(boxes: Boxes, id: string) {
    this.boxes = boxes;
    this.id = id;
  }

  static async create(boxes: Boxes, body: Row): Promise<Watched> {
    const { id } = await boxes.must<{ id: string }>("POST", "/databases", { memory_mb: 256, ...body });
    const watched = new Watched(boxes, id);
    await watched.isAvailable();
    return watched;
  }

  credentials = () => this.boxes.must<Row>("GET", `/databases/${this.id}/credentials`);
  #until = (what: string, done: (row: Row) => boolean) =>
    until(this.boxes, `/databases/${this.id}`, what, done);
  isAvailable = () => this.#until("the database to be available", (row) => row["state"] === "running");

  /** Its state has left `running`, for one of these reasons and no other, and says so everywhere. */
  async hasLeft(...reasons: string[]): Promise<void> {
    const row = await this.#until("the state to be left", ({ state }) => state !== "running");
    assert.equal(row["state"], "error");
    assert.ok(
      reasons.includes(String(row["reason"])),
      `${String(row["reason"])}: ${String(row["last_error"])}`,
    );
    const { status, reason } = row["connection_test"] as Row;
    assert.equal(status, "failed");
    assert.ok(reasons.includes(String(reason)));
    assert.equal((await this.#told("database.unavailable")).at(-1)!["reason"], row["reason"]);
    const refused = await this.boxes.api("GET", `/databases/${this.id}/credentials`);
    assert.deepEqual([refused.status, refused.at("error", "code")], [409, "DATABASE_NOT_READY"]);
  }

  async hasRecovered(): Promise<void> {
    const before = (await this.#told("database.recovered")).length;
    const row = await this.isAvailable();
    assert.equal((row["connection_test"] as Row)["status"], "ok");
    assert.equal(row["reason"], null);
    assert.ok((await this.#told("database.recovered")).length >= Math.max(1, before));
  }

  /** Its server is killed and cannot start, as the file is not there, until the state was left. */
  async isGoneWithout(file: string, engine: string): Promise<void> {
    renameSync(file, `${file}.aside`);
    for (const pid of processesBelow(this.home(engine))) kill(pid);
    try {
      await this.hasLeft("unreachable");
    } finally {
      renameSync(`${file}.aside`, file);
    }
  }

  async #told(type: string): Promise<Row[]> {
    const events = await this.boxes.must<Row[]>(
      "GET",
      `/platform-events?after_seq=0&limit=200&types=${type}`,
    );
    return events.map((event) => event["payload"] as Row).filter((data) => data["id"] === this.id);
  }

  /** Of its server, on the host. */
  home = (engine: string) => join(this.boxes.hostFolder, "engines", engine, "databases", `db-${this.id}`);

  /** Something in its server's data. */
  folder(engine: string, ...inside: string[]): string {
    const home = this.home(engine);
    const data = ["disk/data", "cluster"].map((name) => join(home, name)).find((path) => existsSync(path));
    return join(data!, ...inside);
  }
}

const start = (t: TestContext) => startBoxes(t, { CANARY_EVERY_MS: "300" });

async function open(credentials: Row): Promise<Client> {
  const ca = String((credentials["ssl"] as Row)["ca_certificate"]);
  const [port, user, password, database] = ["port", "user", "password", "database"].map(
    (name) => credentials[name],
  );
  const client = new Client(
    loginOptions({
      ...{ host: "127.0.0.1", port: Number(port), user: String(user), password: String(password) },
      ...{ database: String(database), ssl: { ca, servername: String(credentials["host"]) } },
    }),
  );
  client.on("error", () => undefined);
  await client.connect();
  return client;
}

type Session = { end(): Promise<unknown> };

/** Takes every connection that the server has, also those that somebody lets go. @returns what ends that */
function crowd(connect: () => Promise<Session>): () => Promise<unknown> {
  const sessions: Session[] = [];
  let isOver = false;
  const fill = async () => {
    while (!isOver && sessions.length < 500) {
      const session = await connect().catch(() => null);
      if (session) sessions.push(session);
      else await delay(20);
    }
  };
  const filling = fill();
  return async () => {
    isOver = true;
    await filling;
    assert.ok(sessions.length < 500, "the server lets in any number");
    await Promise.all(sessions.map((session) => session.end()));
  };
}

test("a PostgreSQL database is not available while its login fails, and says why", { skip }, async (t) => {
  const boxes = await start(t);
  const shop = await Watched.create(boxes, { name: "shop", storage_mb: 128 });

  await t.test("auth_failed: its password was changed by SQL; a rotation repairs it", async () => {
    const { user } = await shop.credentials();
    await ask(boxes, shop.id, `alter role "${String(user)}" password 'somebody else knows it'`);
    await shop.hasLeft("auth_failed");
    await boxes.must("POST", `/databases/${shop.id}/rotate`, {});
    await shop.hasRecovered();
  });

  await t.test("too_many_connections: all are taken; it is back when they are let go", async () => {
    const credentials = await shop.credentials();
    const letGo = crowd(() => open(credentials));
    await shop.hasLeft("too_many_connections");
    await letGo();
    await shop.hasRecovered();
  });

  await t.test("timeout: the server is held up", async () => {
    const pid = Number(readFileSync(shop.folder("postgres", "postmaster.pid"), "utf8").split("\n")[0]);
    process.kill(pid, "SIGSTOP");
    try {
      await shop.hasLeft("timeout", "unreachable");
    } finally {
      process.kill(pid, "SIGCONT");
    }
    await shop.hasRecovered();
  });

  await t.test("unreachable: the server is gone and does not come back", async () => {
    await shop.isGoneWithout(shop.folder("postgres", "PG_VERSION"), "postgres");
    await shop.hasRecovered();
  });

  await t.test("disk_full: its storage is used up; it is back when there is room", needed, async () => {
    const client = await open(await shop.credentials());
    await client.query("create table big (data text); alter table big alter data set storage external");
    await assert.rejects(
      async () => {
        for (let count = 0; count < 400; count++)
          await client.query("insert into big values (repeat('x', 1000000))");
      },
      { code: "53100" },
    );
    await shop.hasLeft("disk_full");
    await client.query("drop table big");
    await client.end();
    await shop.hasRecovered();
  });
});

test("so is a MySQL database", { skip }, async (t) => {
  const boxes = await start(t);
  const asked = await boxes.api("POST", "/databases", { name: "probe", engine: "mysql", memory_mb: 256 });
  if (asked.status === 503) return t.skip(asked.at("error", "message"));
  await boxes.must("DELETE", `/databases/${asked.at("data", "id")}`);
  const words = await Watched.create(boxes, { name: "words", engine: "mysql", storage_mb: 512 });
  const connect = async () => {
    const credentials = await words.credentials();
    const { ca_certificate: ca } = credentials["ssl"] as { ca_certificate: string };
    return () =>
      createConnection({
        ...{ host: "127.0.0.1", port: Number(credentials["port"]), user: String(credentials["user"]) },
        ...{ password: String(credentials["password"]), database: String(credentials["database"]) },
        ssl: { ca, verifyIdentity: false },
      });
  };

  await t.test("auth_failed", async () => {
    const session = await (await connect())();
    await session.query("set password = password('somebody else knows it')");
    await session.end();
    await words.hasLeft("auth_failed");
    await boxes.must("POST", `/databases/${words.id}/rotate`, {});
    await words.hasRecovered();
  });

  await t.test("too_many_connections", async () => {
    const letGo = crowd(await connect());
    await words.hasLeft("too_many_connections");
    await letGo();
    await words.hasRecovered();
  });

  await t.test("unreachable: the server is gone and does not come back", async () => {
    await words.isGoneWithout(words.folder("mariadb", "../tmp"), "mariadb");
    await words.hasRecovered();
  });

  await t.test("disk_full: its storage is used up; it is back when there is room", needed, async () => {
    const open = await connect();
    const ask = async (sql: string) => {
      const session = await open();
      await session.query(sql).finally(() => session.destroy());
    };
    await ask("create table big (data longblob)");
    const fill = async () => {
      for (let count = 0; count < 400; count++) await ask("insert into big values (repeat('x', 4000000))");
    };
    // Sessions that are on when the limit is seen are ended; every later one has no right to insert.
    await waitFor(
      "writes to be refused",
      () =>
        fill().then(
          () => assert.fail("it took any amount"),
          (error: { errno?: number }) => error.errno === 1142,
        ),
      60_000,
    );
    await words.hasLeft("disk_full");
    await ask("drop table big");
    await words.hasRecovered();
    await ask("create table small (n int)");
  });
});

test("so is a Redis database", { skip }, async (t) => {
  const boxes = await start(t);
  const asked = await boxes.api("POST", "/databases", { name: "probe", engine: "redis", memory_mb: 128 });
  if (asked.status === 503) return t.skip(asked.at("error", "message"));
  await boxes.must("DELETE", `/databases/${asked.at("data", "id")}`);
  const cache = await Watched.create(boxes, {
    ...{ name: "cache", engine: "redis", memory_mb: 128, storage_mb: 64 },
  });
  const open = async (login: { username?: string; password?: string } = {}) => {
    const { user, password, port, ssl } = await cache.credentials();
    const client = new Redis({
      ...{ lazyConnect: true, retryStrategy: null, maxRetriesPerRequest: 0, enableReadyCheck: false },
      ...{ host: "127.0.0.1", port: Number(port), username: String(user), password: String(password) },
      tls: { ca: String((ssl as Row)["ca_certificate"]), checkServerIdentity: () => undefined },
      ...login,
    });
    client.on("error", () => undefined);
    await client.connect();
    await client.ping();
    return client;
  };

  await t.test("auth_failed: its password was changed in the server; a rotation repairs it", async () => {
    const { user } = await cache.credentials();
    const state = readFileSync(join(cache.home("redis"), "state.json"), "utf8");
    const { superuserPassword } = JSON.parse(state) as { superuserPassword: string };
    const client = await open({ username: "administrator", password: superuserPassword });
    await client.call("ACL", "SETUSER", String(user), "resetpass", ">somebody else knows it");
    client.disconnect();
    await cache.hasLeft("auth_failed");
    await boxes.must("POST", `/databases/${cache.id}/rotate`, {});
    await cache.hasRecovered();
  });

  await t.test("unreachable: the server is gone and does not come back", async () => {
    await cache.isGoneWithout(join(cache.home("redis"), "settings/server.key"), "redis");
    await cache.hasRecovered();
  });

  await t.test("disk_full: its storage is used up; it is back when there is room", needed, async () => {
    const client = await open();
    // Up to the limit of memory each time, so that the log of it grows beyond the storage.
    const refused = async () => {
      for (let count = 0; count < 60; count++) await client.set(`big${count}`, randomBytes(1_000_000));
      return false;
    };
    await waitFor(
      "writes to be refused",
      () => refused().catch((error: Error) => /NOPERM/.test(error.message)),
      60_000,
    );
    await cache.hasLeft("disk_full");
    await client.flushall();
    await cache.hasRecovered();
    await client.set("small", "1");
    client.disconnect();
  });

  await t.test("timeout: the server is held up", async () => {
    const held = processesBelow(cache.home("redis"));
    assert.ok(held.length > 0);
    for (const pid of held) process.kill(pid, "SIGSTOP");
    try {
      await cache.hasLeft("timeout", "unreachable");
    } finally {
      for (const pid of held) process.kill(pid, "SIGCONT");
    }
    await cache.hasRecovered();
  });

  await t.test("too_many_connections", async () => {
    const letGo = crowd(async () => {
      const client = await open();
      return { end: async () => client.disconnect() };
    });
    await cache.hasLeft("too_many_connections");
    await letGo();
    await cache.hasRecovered();
  });
});

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // A worker that ended with its server.
  }
}

/** Processes that were started with something there. */
function processesBelow(folder: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return readFileSync(`/proc/${name}/cmdline`, "utf8").includes(folder);
      } catch {
        return false; // Ended meanwhile.
      }
    })
    .map(Number);
}
