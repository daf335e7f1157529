import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { waitFor } from "./wait.ts";
import { Api } from "./api.ts";
import { childrenOf, endEverythingOf, type Child } from "./machine.ts";

const repository = join(import.meta.dirname, "..", "..", "..");

export interface Folders {
  readonly root: string;
  readonly data: string;
  /** Holds a file for each armed fault point. */
  readonly points: string;
  /** Environment of the server besides its usual one. */
  readonly settings?: Readonly<Record<string, string>>;
}

export function makeFolders(): Folders {
  const root = mkdtempSync(join(tmpdir(), "kill-"));
  chmodSync(root, 0o711);
  const folders = { root, data: join(root, "data"), points: join(root, "points") };
  mkdirSync(folders.data, { mode: 0o711 });
  mkdirSync(folders.points, { mode: 0o711 });
  return folders;
}

/** The whole product, started as a user starts it. */
export class Server {
  readonly folders: Folders;
  readonly process: ChildProcess;
  readonly apiUrl: string;
  readonly apiKey: string;
  readonly edgePort: number;
  readonly #said: string[];

  private constructor(
    folders: Folders,
    child: ChildProcess,
    said: string[],
    line: { api_url: string; api_key: string; edge_http_port: number },
  ) {
    this.folders = folders;
    this.process = child;
    this.#said = said;
    this.apiUrl = line.api_url;
    this.apiKey = line.api_key;
    this.edgePort = line.edge_http_port;
  }

  /** @throws Error with everything that it said, if it ends before it serves */
  static async start(folders: Folders): Promise<Server> {
    const said: string[] = [];
    const child = spawnSupervisor(folders);
    let out = "";
    child.stdout?.on("data", (chunk: Buffer) => (out += chunk.toString()));
    child.stderr?.on("data", (chunk: Buffer) => said.push(chunk.toString()));
    const line = await waitFor(
      "the server to print its address",
      () => {
        if (child.exitCode !== null) return "ended";
        return out.includes("\n") ? out : undefined;
      },
      120_000,
    );
    if (line === "ended") throw new Error(`the server ended with ${child.exitCode}:\n${said.join("")}`);
    return new Server(
      folders,
      child,
      said,
      JSON.parse(line) as { api_url: string; api_key: string; edge_http_port: number },
    );
  }

  get api(): Api {
    return new Api(this.apiUrl, this.apiKey);
  }

  /** What the supervisor wrote to stderr. */
  get said(): string {
    return this.#said.join("");
  }

  /** How often the supervisor noticed that a program had been killed. */
  kills(program: string): number {
    return this.said.split("\n").filter((line) => line.includes(`✗ ${program} ended with SIGKILL`)).length;
  }

  /** The process of a program now; undefined between two lives. */
  program(name: string): Child | undefined {
    return childrenOf(this.process.pid!).find((child) => child.command.includes(`apps/${name}/src/main.ts`));
  }

  arm(point: string): void {
    writeFileSync(join(this.folders.points, point), "");
  }
  disarm(point: string): void {
    rmSync(join(this.folders.points, point), { force: true });
  }
  isArmed(point: string): boolean {
    return existsSync(join(this.folders.points, point));
  }
  get armed(): string[] {
    return readdirSync(this.folders.points);
  }

  async stop(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const ended = once(this.process, "exit");
    this.process.kill("SIGTERM");
    await ended;
  }
}

export function spawnSupervisor(folders: Folders): ChildProcess {
  return spawn(
    process.execPath,
    [join(repository, "apps/cli/src/main.ts"), "main-job", "--serve", "--data", folders.data],
    {
      cwd: repository,
      env: {
        PATH: process.env["PATH"] ?? "/usr/bin:/bin",
        HOME: folders.root,
        LANG: "C.UTF-8",
        IMAGES_BUILD: "0",
        FAULT_POINTS_DIR: folders.points,
        HOST_DRIVERS: "bubblewrap",
        // What waits for a caller belongs to nobody's test; create.test.ts is about it.
        HOST_POOL_MAX: "0",
        HOST_SPARES_MAX: "0",
        ...folders.settings,
      },
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
}

/** For the end of a test, passed or failed: nothing of it stays on the machine. */
export async function removeFolders(folders: Folders, server: Server | null): Promise<void> {
  await server?.stop().catch(() => undefined); // The line below ends what did not stop.
  await endEverythingOf(folders.data);
  if (process.env["KEEP_FOLDERS"] === undefined) rmSync(folders.root, { recursive: true, force: true });
}
