import { spawn, type ChildProcess } from "node:child_process";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { unmountBelow } from "../mounts.ts";

export const repository = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

export interface RunningPlatform {
  readonly port: number;
  readonly apiUrl: string;
  readonly apiKey: string;
  readonly dataFolder: string;
  /** Of the same gateway under TLS. */
  readonly httpsPort: number;
  stop(): Promise<void>;
}

const startTimeoutMs = 120_000;
const stopTimeoutMs = 60_000;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

/**
 * Starts the whole product as a user does, on a free port with a data folder of its own.
 *
 * @param options.drivers which may make boxes; the fastest one unless a test is about another
 * @param options.tenant the one that it begins with; the product's own example unless a test is about another
 */
export async function startPlatform({
  drivers = "bubblewrap",
  tenant = null as { name: string; domain: string } | null,
} = {}): Promise<RunningPlatform> {
  const dataFolder = await mkdtemp(join(tmpdir(), "contract-"));
  // Boxes run under other users, who must be able to pass through the folder.
  await chmod(dataFolder, 0o711);
  const port = await freePort();
  const named = tenant ? { TENANT_NAME: tenant.name, TENANT_DOMAIN: tenant.domain } : {};
  const child = spawn(
    process.execPath,
    [join(repository, "scripts", "start.mjs"), "--serve", "--port", String(port), "--data", dataFolder],
    { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...named, HOST_DRIVERS: drivers } },
  );
  const said: string[] = [];
  child.stderr.on("data", (chunk: Buffer) => said.push(chunk.toString()));
  const stop = () => stopProcess(child, dataFolder);
  try {
    const { api_url, api_key, edge_https_port } = await firstLine(child, said);
    return { port, apiUrl: api_url, apiKey: api_key, dataFolder, httpsPort: edge_https_port, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

interface FirstLine {
  readonly api_url: string;
  readonly api_key: string;
  readonly edge_https_port: number;
}

function firstLine(child: ChildProcess, said: string[]): Promise<FirstLine> {
  return new Promise((resolve, reject) => {
    const refuse = (why: string) => reject(new Error(`${why}\n${said.join("").slice(-4000)}`));
    const timer = setTimeout(() => refuse("the platform did not start in time"), startTimeoutMs);
    child.once("exit", (code) => refuse(`the platform ended with ${code}`));
    createInterface({ input: child.stdout! }).on("line", (line) => {
      if (!line.startsWith("{")) return;
      clearTimeout(timer);
      resolve(JSON.parse(line) as FirstLine);
    });
  });
}

async function stopProcess(child: ChildProcess, dataFolder: string): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const gone = once(child, "exit");
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), stopTimeoutMs);
    await gone;
    clearTimeout(timer);
  }
  unmountBelow(dataFolder);
  await rm(dataFolder, { recursive: true, force: true, maxRetries: 5 });
}
