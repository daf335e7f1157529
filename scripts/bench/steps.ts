import { spawn } from "node:child_process";
import { Client } from "pg";
import type { OwnPlatform } from "../../e2e/full/own-platform.ts";
import { measureReleases } from "./deploy.ts";
import { answeringServer, freePort, until, type Peers } from "./peers.ts";
import { summarise, timed, type Row } from "./timing.ts";

const counts = { sandboxes: 10, exposes: 15, databases: 4, releases: 8 } as const;
/** Each of our steps by turns with its peer, so that a busy machine is as busy for both. */
export async function measureAll(platform: OwnPlatform, peers: Peers): Promise<Row[]> {
  const rows = await measureSandboxes(platform, peers);
  rows.push(await measureExpose(platform, peers));
  if (peers.hasPostgres) rows.push(await measureDatabases(platform, peers));
  rows.push(...(await measureReleases(platform, peers)));
  return rows;
}

async function firstCommand(platform: OwnPlatform): Promise<string> {
  const { id } = await platform.must("POST", "/sandboxes", {});
  const { stdout } = await platform.must("POST", `/sandboxes/${String(id)}/exec`, {
    command: "echo $((6*7))",
  });
  if (stdout !== "42\n") throw new Error(`the sandbox printed ${JSON.stringify(stdout)}`);
  return String(id);
}

async function measureSandboxes(platform: OwnPlatform, peers: Peers): Promise<Row[]> {
  const [ours, theirs]: [number[], number[]] = [[], []];
  for (let round = 0; round <= counts.sandboxes; round++) {
    let id = "";
    theirs.push(await timed(() => peers.boxedNode()));
    ours.push(await timed(async () => (id = await firstCommand(platform))));
    await platform.must("DELETE", `/sandboxes/${id}`);
  }
  const peerName = "`bwrap` and Node until its first output";
  const row = (name: string, part: [number, number?]): Row => ({
    name,
    ours: summarise(ours.slice(...part)),
    peerName,
    peer: summarise(theirs.slice(...part)),
  });
  return [
    row("sandbox: create → first command, first of the server's life", [0, 1]),
    row("the same, later ones", [1]),
  ];
}

async function measureExpose(platform: OwnPlatform, peers: Peers): Promise<Row> {
  const id = await platform.sandbox("bench-expose", { "/workspace/server.cjs": answeringServer });
  const port = await freePort();
  const bare = spawn(process.execPath, ["-e", answeringServer, String(port)], { stdio: "ignore" });
  const [ours, theirs]: [number[], number[]] = [[], []];
  try {
    for (let round = 0; round < counts.exposes; round++) {
      const inside = 5000 + round;
      const start = `nohup node -e "$(cat server.cjs)" ${inside} >/dev/null 2>&1 & until curl -fs -o /dev/null 127.0.0.1:${inside}; do sleep 0.05; done`;
      await platform.exec(id, start);
      if (round === 0) await until(async () => (await peers.threeRequests(port), true));
      theirs.push(await timed(() => peers.threeRequests(port)));
      ours.push(await timed(() => platform.must("POST", `/sandboxes/${id}/expose`, { port: inside })));
    }
  } finally {
    bare.kill("SIGKILL");
    await platform.must("DELETE", `/sandboxes/${id}`);
  }
  return {
    name: "a port that answers → URL, proved three times",
    ours: summarise(ours),
    peerName: "three requests to a bare server",
    peer: summarise(theirs),
  };
}

async function measureDatabases(platform: OwnPlatform, peers: Peers): Promise<Row> {
  const [ours, theirs]: [number[], number[]] = [[], []];
  for (let round = 0; round < counts.databases; round++) {
    theirs.push(await timed(() => peers.postgresClone()));
    let id = "";
    ours.push(
      await timed(async () => {
        id = String((await platform.must("POST", "/databases", { name: `bench-${round}` }))["id"]);
        await until(async () => (await platform.must("GET", `/databases/${id}`))["state"] === "running");
        await login(await platform.must("GET", `/databases/${id}/credentials`));
      }),
    );
    await platform.must("DELETE", `/databases/${id}`);
  }
  return {
    name: "Postgres: request → own login over TLS",
    ours: summarise(ours),
    peerName: "`cp -a` of a cluster, `postgres`, login",
    peer: summarise(theirs),
  };
}

async function login(credentials: Record<string, unknown>): Promise<void> {
  const { port, username, password, database, ssl } = credentials as {
    port: number;
    username: string;
    password: string;
    database: string;
    ssl?: { ca_certificate: string | null };
  };
  const ca = ssl?.ca_certificate;
  const client = new Client({
    host: "127.0.0.1",
    port,
    user: username,
    password,
    database,
    ...(ca ? { ssl: { ca, rejectUnauthorized: true } } : {}),
  });
  await client.connect();
  await client.query("select 1");
  await client.end();
}
