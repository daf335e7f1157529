import { execFile, spawn, type ChildProcess, type SpawnOptions } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { createConnection } from "mysql2/promise";
import { freePort, until } from "../peers.ts";

const run = promisify(execFile);
/** Servers that refuse to run as root get this user and group. */
const nobody = 65_534;
const owner = (): SpawnOptions => (process.getuid?.() === 0 ? { uid: nobody, gid: nobody } : {});

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill("SIGKILL");
  await gone;
}

/** Servers without what the platform puts around them: no TLS, limits, records, proofs or copies on the disk. */
export class BareServers {
  readonly #folder = mkdtempSync(join(tmpdir(), "bench-bare-"));
  #hasMaria = false;

  static async open(): Promise<BareServers> {
    const bare = new BareServers();
    chmodSync(bare.#folder, 0o777);
    await bare.#makeTemplate();
    return bare;
  }

  close(): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** A copy of ready system tables, `mariadbd`, and a login. */
  async mariaClone(): Promise<void> {
    const data = mkdtempSync(join(this.#folder, "maria-"));
    await run("cp", ["-a", `${this.#template}/.`, data]);
    if (process.getuid?.() === 0) chownSync(data, nobody, nobody);
    const port = await freePort();
    const files = [`--datadir=${data}`, `--socket=${data}/s`, `--pid-file=${data}/pid`];
    const listen = [`--port=${port}`, "--bind-address=127.0.0.1", "--skip-name-resolve"];
    const server = spawn("mariadbd", ["--no-defaults", ...files, ...listen, "--skip-grant-tables"], {
      ...owner(),
      stdio: "ignore",
    });
    try {
      await until(async () => {
        const client = await createConnection({ host: "127.0.0.1", port, user: "root" });
        await client.query("select 1");
        await client.end();
        return true;
      });
    } finally {
      await end(server);
      rmSync(data, { recursive: true, force: true });
    }
  }

  /** `redis-server` until it says PONG. */
  async redis(): Promise<void> {
    const folder = mkdtempSync(join(this.#folder, "redis-"));
    if (process.getuid?.() === 0) chownSync(folder, nobody, nobody);
    const port = await freePort();
    // Debian's tools hold the server, under another name.
    const words = ["--port", String(port), "--bind", "127.0.0.1", "--dir", folder, "--appendonly", "yes"];
    const server = spawn("/usr/bin/redis-check-rdb", words, {
      ...owner(),
      argv0: "redis-server",
      stdio: "ignore",
    });
    try {
      await until(() => answersPing(port));
    } finally {
      await end(server);
      rmSync(folder, { recursive: true, force: true });
    }
  }

  /** nginx that sends the files of a folder. */
  async nginx(files: string): Promise<{ port: number; stop(): Promise<void> }> {
    const port = await freePort();
    const folder = mkdtempSync(join(this.#folder, "nginx-"));
    mkdirSync(join(folder, "logs"));
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
      .map((name) => `${name}_temp_path ${folder}/${name};`)
      .join(" ");
    writeFileSync(
      join(folder, "nginx.conf"),
      `user root; worker_processes 2; daemon off; pid ${folder}/pid; error_log ${folder}/logs/error crit;
      events { worker_connections 512; }
      http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; ${temporary}
        server { listen 127.0.0.1:${port}; root ${files}; } }`,
    );
    const server = spawn("nginx", ["-p", folder, "-c", join(folder, "nginx.conf")], { stdio: "ignore" });
    await until(async () => (await fetch(`http://127.0.0.1:${port}/`)).status > 0);
    return { port, stop: () => end(server) };
  }

  get #template(): string {
    return join(this.#folder, "maria-template");
  }

  get hasMaria(): boolean {
    return this.#hasMaria;
  }

  async #makeTemplate(): Promise<void> {
    mkdirSync(this.#template, { mode: 0o700 });
    const isRoot = process.getuid?.() === 0;
    if (isRoot) chownSync(this.#template, nobody, nobody);
    const words = ["--no-defaults", `--datadir=${this.#template}`, "--skip-test-db"];
    const method = ["--auth-root-authentication-method=normal", "--innodb-log-file-size=16M"];
    try {
      await run("mariadb-install-db", [...words, ...method], isRoot ? { uid: nobody, gid: nobody } : {});
      this.#hasMaria = true;
    } catch (error) {
      process.stderr.write(`• no MariaDB to compare with: ${(error as Error).message.slice(0, 300)}\n`);
    }
  }
}

function answersPing(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => socket.write("PING\r\n"));
    socket.once("data", (answer: Buffer) => {
      resolve(answer.toString().startsWith("+PONG"));
      socket.destroy();
    });
    socket.once("error", () => resolve(false));
  });
}
