import { spawn, type ChildProcess, type SpawnOptions } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, existsSync, globSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Client } from "pg";
import { request } from "undici";

const bootMs = 30_000;
/** Servers that refuse to run as root get this user and group. */
const nobody = 65_534;
export const answeringServer = `require("node:http").createServer((q, s) => s.end("ok")).listen(Number(process.argv[1]), "0.0.0.0")`;

/** The least that does the same, with the tools that everybody has. */
export class Peers {
  readonly #folder: string;
  readonly #postgres: string | null;

  static async open(): Promise<Peers> {
    const peers = new Peers();
    await peers.#initTemplate();
    return peers;
  }

  private constructor() {
    this.#folder = mkdtempSync(join(tmpdir(), "bench-"));
    chmodSync(this.#folder, 0o777);
    const initdb = globSync("/usr/lib/postgresql/*/bin/initdb").sort().at(-1);
    this.#postgres = initdb ? dirname(initdb) : null;
  }

  async close(): Promise<void> {
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** An isolated process tree that starts Node and computes. */
  async boxedNode(): Promise<void> {
    const args = [
      "--ro-bind",
      "/",
      "/",
      "--proc",
      "/proc",
      "--dev",
      "/dev",
      "--unshare-all",
      "--die-with-parent",
    ];
    const program = [process.execPath, "-e", "process.stdout.write(String(6*7))"];
    if ((await run("bwrap", [...args, ...program])) !== "42") throw new Error("the box computed wrongly");
  }

  /** A server process until its first HTTP 200. */
  async serverProcess(): Promise<void> {
    const port = await freePort();
    const child = spawn(process.execPath, ["-e", answeringServer, String(port)], { stdio: "ignore" });
    try {
      await until(async () => (await request(`http://127.0.0.1:${port}/`)).statusCode === 200);
    } finally {
      await end(child);
    }
  }

  /** Three requests on new connections: as many as a preview's proof makes. */
  async threeRequests(port: number): Promise<void> {
    for (let count = 0; count < 3; count++) {
      const response = await request(`http://127.0.0.1:${port}/`, { headers: { connection: "close" } });
      await response.body.dump();
    }
  }

  /** `tar` and `cp` of a folder. */
  async tarAndCopy(source: string): Promise<void> {
    const target = mkdtempSync(join(this.#folder, "copy-"));
    await run("tar", ["-cf", join(target, "app.tar"), "-C", source, "."]);
    await run("cp", ["-a", source, join(target, "app")]);
  }

  /** A copy that is on the disk when it ends. */
  async copyToDisk(source: string): Promise<void> {
    const target = join(this.#folder, "copied");
    await run("cp", [source, target]);
    await run("sync", [target]);
    rmSync(target);
  }

  get hasPostgres(): boolean {
    return this.#postgres !== null;
  }

  /** A copy of a ready cluster, its server, and a login. */
  async postgresClone(): Promise<void> {
    const data = mkdtempSync(join(this.#folder, "cluster-"));
    await run("cp", ["-a", `${this.#template}/.`, data]);
    const port = await freePort();
    const args = ["-D", data, "-p", String(port), "-h", "127.0.0.1", "-k", ""];
    const server = spawn(join(this.#postgres!, "postgres"), args, { ...this.#owner(), stdio: "ignore" });
    try {
      await until(async () => {
        const client = new Client({ host: "127.0.0.1", port, user: "bench", database: "postgres" });
        client.on("error", () => undefined); // Seen by the query.
        await client.connect();
        await client.query("select 1");
        await client.end();
        return true;
      });
    } finally {
      await end(server, "SIGINT");
    }
  }

  get #template(): string {
    return join(this.#folder, "template");
  }

  #owner(): SpawnOptions {
    return process.getuid?.() === 0 ? { uid: nobody, gid: nobody } : {};
  }

  async #initTemplate(): Promise<void> {
    if (this.#postgres === null) return;
    const args = ["-D", this.#template, "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-sync"];
    await run(join(this.#postgres, "initdb"), args, this.#owner());
    if (process.getuid?.() === 0) chownSync(this.#template, nobody, nobody);
  }
}

/** A folder as small apps are: many little files and a few larger ones. @returns its path */
export function makeAppFolder(parent: string, files: Readonly<Record<string, string>>): string {
  const folder = mkdtempSync(join(parent, "bench-app-"));
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
  if (!existsSync(folder)) throw new Error("the app folder is gone");
  return folder;
}

async function run(command: string, args: readonly string[], options: SpawnOptions = {}): Promise<string> {
  const child = spawn(command, args, { ...options, stdio: ["ignore", "pipe", "pipe"] });
  let [text, errors] = ["", ""];
  child.stdout!.on("data", (chunk: Buffer) => (text += chunk.toString()));
  child.stderr!.on("data", (chunk: Buffer) => (errors += chunk.toString()));
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0) throw new Error(`${command} ended with ${code}: ${errors.slice(-500)}`);
  return text;
}

async function end(child: ChildProcess, signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill(signal);
  await gone;
}

/** Every 5 ms, as anybody would wait for a server that gives no sign. */
export async function until(check: () => Promise<boolean>): Promise<void> {
  const endsAt = performance.now() + bootMs;
  for (;;) {
    // Not there yet: refused connections are what this waits through.
    if (await check().catch(() => false)) return;
    if (performance.now() > endsAt) throw new Error("a bare peer did not come up");
    await delay(5);
  }
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
