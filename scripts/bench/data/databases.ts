import { Redis } from "ioredis";
import { createConnection } from "mysql2/promise";
import { Client } from "pg";
import type { OwnPlatform } from "../../../e2e/full/own-platform.ts";
import { until, type Peers } from "../peers.ts";
import { summarise, timed, type Row } from "../timing.ts";
import type { BareServers } from "./bare.ts";

interface Credentials {
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly database: string;
  readonly ssl?: { readonly ca_certificate: string | null };
}

type Engine = "postgresql" | "mysql" | "redis";

/** The owner's login over verified TLS, and one answer. */
async function login(engine: Engine, credentials: Credentials): Promise<void> {
  const { port, username, password, database, ssl } = credentials;
  const ca = ssl?.ca_certificate ?? undefined;
  const host = "127.0.0.1";
  if (engine === "postgresql") {
    const client = new Client({ host, port, user: username, password, database, ssl: { ca } });
    await client.connect();
    await client.query("select 1");
    await client.end();
  } else if (engine === "mysql") {
    const client = await createConnection({ host, port, user: username, password, database, ssl: { ca } });
    await client.query("select 1");
    await client.end();
  } else {
    const client = new Redis({ host, port, username, password, tls: { ca }, lazyConnect: true });
    client.on("error", () => undefined);
    await client.connect();
    await client.ping();
    client.disconnect();
  }
}

const credentialsOf = async (platform: OwnPlatform, id: string) =>
  (await platform.must("GET", `/databases/${id}/credentials`)) as unknown as Credentials;

async function awaitRunning(platform: OwnPlatform, id: string): Promise<void> {
  await until(async () => {
    const { state } = await platform.must("GET", `/databases/${id}`);
    if (state === "error" || state === "failed") throw new Error(`database ${id} is ${state}`);
    return state === "running" || state === "available";
  });
}

async function create(platform: OwnPlatform, engine: Engine, name: string): Promise<string> {
  const { id } = await platform.must("POST", "/databases", { name, engine });
  await awaitRunning(platform, String(id));
  await login(engine, await credentialsOf(platform, String(id)));
  return String(id);
}

/** Request → login with what was issued, each by turns with the bare server's own start. */
export async function measureLogins(
  platform: OwnPlatform,
  bare: BareServers,
  peers: Peers,
  { rounds, how }: { rounds: number; how: string },
): Promise<Row[]> {
  const engines: { engine: Engine; title: string; peerName: string; peer: () => Promise<void> }[] = [
    {
      ...{ engine: "postgresql", title: "Postgres", peerName: "`cp -a` of a cluster, `postgres`, login" },
      peer: () => peers.postgresClone(),
    },
    {
      ...{ engine: "mysql", title: "MySQL (MariaDB)", peerName: "`cp -a`, `mariadbd`, login" },
      peer: () => bare.mariaClone(),
    },
    { engine: "redis", title: "Redis", peerName: "`redis-server` until PONG", peer: () => bare.redis() },
  ];
  const rows: Row[] = [];
  for (const { engine, title, peerName, peer } of engines) {
    if (engine === "postgresql" ? !peers.hasPostgres : engine === "mysql" && !bare.hasMaria) continue;
    const [ours, theirs]: [number[], number[]] = [[], []];
    for (let round = 0; round < rounds; round++) {
      theirs.push(await timed(peer));
      let id = "";
      ours.push(await timed(async () => (id = await create(platform, engine, `bench-${engine}-${round}`))));
      await platform.must("DELETE", `/databases/${id}`);
    }
    const name = `${title}: request → own login over TLS, ${how}`;
    rows.push({ name, ours: summarise(ours), peerName, peer: summarise(theirs) });
  }
  return rows;
}

const rowsOfText = 200_000;

/** A branch and a restored backup of a database with 200,000 rows, beside a copy of it by SQL. */
export async function measureCopies(platform: OwnPlatform, rounds: number): Promise<Row[]> {
  const source = await create(platform, "postgresql", "bench-source");
  const { port, username, password, database, ssl } = await credentialsOf(platform, source);
  const ca = ssl?.ca_certificate ?? undefined;
  const client = new Client({ host: "127.0.0.1", port, user: username, password, database, ssl: { ca } });
  await client.connect();
  await client.query(
    `create table notes as select n as id, repeat(md5(n::text), 3) as text from generate_series(1, ${rowsOfText}) n`,
  );
  const samples = {
    branch: [] as number[],
    backup: [] as number[],
    restore: [] as number[],
    sql: [] as number[],
  };
  const whole = async (id: string) => {
    await awaitRunning(platform, id);
    const made = await credentialsOf(platform, id);
    await login("postgresql", made);
  };
  const backups = `/databases/${source}/backups`;
  for (let round = 0; round < rounds; round++) {
    samples.sql.push(await timed(() => client.query("create table copied as select * from notes")));
    await client.query("drop table copied");
    const copies: string[] = [];
    samples.branch.push(
      await timed(async () => {
        const { id } = await platform.must("POST", `/databases/${source}/branches`, { name: `b-${round}` });
        copies.push(String(id));
        await whole(String(id));
      }),
    );
    let backupId = "";
    samples.backup.push(
      await timed(async () => {
        backupId = String((await platform.must("POST", backups, {}))["id"]);
        await until(async () => {
          const all = (await platform.must("GET", backups)) as unknown as { id: string; state: string }[];
          const state = all.find(({ id }) => id === backupId)?.state;
          if (state === "failed") throw new Error("the backup failed");
          return state === "completed" || state === "available" || state === "ready";
        });
      }),
    );
    samples.restore.push(
      await timed(async () => {
        const made = await platform.must("POST", `/databases/${source}/restores`, { backup_id: backupId });
        const id = String(made["database_id"] === source ? made["id"] : made["database_id"]);
        copies.push(id);
        await whole(id);
      }),
    );
    for (const id of copies) await platform.must("DELETE", `/databases/${id}`);
  }
  await client.end();
  await platform.must("DELETE", `/databases/${source}`);
  const peer = summarise(samples.sql);
  const peerName = "`create table as` of the same rows";
  const row = (name: string, ours: number[]): Row => ({ name, ours: summarise(ours), peerName, peer });
  return [
    row("a branch with 200,000 rows → own login", samples.branch),
    row("a backup of them, encrypted, in its bucket", samples.backup),
    row("that backup as a new database → own login", samples.restore),
  ];
}
