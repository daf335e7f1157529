import { setTimeout as delay } from "node:timers/promises";
import { Redis } from "ioredis";
import { createConnection } from "mysql2/promise";
import { Client } from "pg";

/** As the API hands them out. */
export interface Credentials {
  readonly url: string;
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
  readonly ssl: { readonly ca_certificate: string };
}

/** One session of a client that an app would use. */
export interface Session {
  /** Resolves when the server has acknowledged the number. */
  write(number: number): Promise<void>;
  numbers(): Promise<Set<number>>;
  end(): void;
}

export type Engine = "postgresql" | "mysql" | "redis";

const open: Record<Engine, (login: Credentials) => Promise<Session>> = {
  async postgresql({ host, port, user, password, database, ssl }) {
    const tls = { ca: ssl.ca_certificate, ...(/^[\d.]+$/.test(host) ? {} : { servername: host }) };
    const client = new Client({ host: "127.0.0.1", port, user, password, database, ssl: tls });
    client.on("error", () => undefined); // The failure reaches the awaited call as well.
    await client.connect();
    await client.query("create table if not exists kept (n int primary key)");
    return {
      write: async (number) => void (await client.query("insert into kept values ($1)", [number])),
      numbers: async () => {
        const { rows } = await client.query<{ n: number }>("select n from kept");
        return new Set(rows.map(({ n }) => n));
      },
      end: () => void client.end().catch(() => undefined),
    };
  },
  async mysql({ port, user, password, database, ssl }) {
    const tls = { ca: ssl.ca_certificate, verifyIdentity: false };
    const client = await createConnection({ host: "127.0.0.1", port, user, password, database, ssl: tls });
    client.on("error", () => undefined);
    await client.query("create table if not exists kept (n int primary key)");
    return {
      write: async (number) => void (await client.query("insert into kept values (?)", [number])),
      numbers: async () => {
        const [rows] = await client.query("select n from kept");
        return new Set((rows as { n: number }[]).map(({ n }) => n));
      },
      end: () => client.destroy(),
    };
  },
  async redis({ url, ssl }) {
    const client = new Redis(url, {
      ...{ lazyConnect: true, retryStrategy: null, maxRetriesPerRequest: 0, commandTimeout: 10_000 },
      tls: { ca: ssl.ca_certificate, checkServerIdentity: () => undefined },
    });
    client.on("error", () => undefined);
    await client.connect();
    return {
      write: async (number) => void (await client.sadd("kept", number)),
      numbers: async () => new Set((await client.smembers("kept")).map(Number)),
      end: () => client.disconnect(),
    };
  },
};

export const openSession = (engine: Engine, login: Credentials): Promise<Session> => open[engine](login);

/** Writes one number after the other and keeps those that were acknowledged, whatever ends in between. */
export class Writer {
  readonly acknowledged = new Set<number>();
  readonly #engine: Engine;
  readonly #credentials: () => Promise<Credentials>;
  readonly #done: Promise<void>;
  #isOver = false;

  constructor(engine: Engine, credentials: () => Promise<Credentials>) {
    this.#engine = engine;
    this.#credentials = credentials;
    this.#done = this.#run();
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await this.#done;
  }

  async #run(): Promise<void> {
    let next = 1;
    while (!this.#isOver) {
      let session: Session | null = null;
      try {
        session = await openSession(this.#engine, await this.#credentials());
        while (!this.#isOver) {
          // A number whose answer was lost is not asked for again: it may be there or not.
          const number = next++;
          await session.write(number);
          this.acknowledged.add(number);
        }
      } catch {
        await delay(50); // Somebody was killed; the next session shows when it is back.
      } finally {
        session?.end();
      }
    }
  }
}
