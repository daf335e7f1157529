import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { Agent, request, type Dispatcher } from "undici";
import { unmountBelow } from "../mounts.ts";

const repository = join(import.meta.dirname, "..", "..");
const startMs = 240_000;
const stopMs = 60_000;
const removeMs = 20_000;

export interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
  readonly ms: number;
}

/** What the platform says about itself when it is up. */
export interface Boot {
  readonly api_url: string;
  readonly api_key: string;
  readonly edge_https_port: number;
  /** Certificate of the authority that HTTPS is verified with. */
  readonly ca_file: string;
}

/** The whole product as one child process, on a port and in a data folder of its own. */
export interface OwnPlatform {
  readonly edgePort: number;
  readonly apiUrl: string;
  readonly apiKey: string;
  readonly dataDir: string;
  readonly boot: Boot;
  /** Never throws for a status; throws when no answer comes. */
  api(
    method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE",
    path: string,
    body?: unknown,
    key?: string,
  ): Promise<Answer>;
  /** The same, but throws for any answer that is not a success, and unwraps `data`. */
  must(
    method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE",
    path: string,
    body?: unknown,
  ): Promise<Record<string, unknown>>;
  /** Raw bytes. */
  put(path: string, bytes: Buffer): Promise<Answer>;
  /** One request by public host name, on a connection of its own. */
  visit(url: string): Promise<{ status: number; text: string }>;
  /** A sandbox that answers commands, with these files in it. */
  sandbox(name: string, files: Readonly<Record<string, string>>): Promise<string>;
  /** Runs a shell command; throws unless it ends with 0. */
  exec(sandboxId: string, command: string): Promise<string>;
  stop(): Promise<void>;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

async function bootLine(child: ChildProcess): Promise<Boot> {
  const seen: string[] = [];
  const timer = setTimeout(() => child.kill("SIGTERM"), startMs);
  try {
    for await (const line of createInterface({ input: child.stdout! })) {
      seen.push(line);
      if (line.startsWith("{")) return JSON.parse(line) as Boot;
    }
  } finally {
    clearTimeout(timer);
    child.stdout?.resume();
  }
  throw new Error(`the platform did not start:\n${seen.slice(-20).join("\n")}`);
}

/**
 * @param settings environment of the platform besides its usual one, in which the fastest driver makes the boxes
 * @throws Error with the last output when the platform does not start
 */
export async function startOwnPlatform(
  settings: Readonly<Record<string, string>> = {},
): Promise<OwnPlatform> {
  const dataDir = await mkdtemp(join(tmpdir(), "e2e-load-"));
  const edgePort = await freePort();
  const { PATH, HOME, LANG, TMPDIR } = process.env;
  const child = spawn(
    process.execPath,
    [
      join(repository, "apps/cli/src/main.ts"),
      "main-job",
      "--serve",
      "--port",
      String(edgePort),
      "--data",
      dataDir,
    ],
    {
      env: {
        PATH,
        HOME,
        LANG,
        TMPDIR,
        HOST_DRIVERS: "bubblewrap",
        IMAGES_BUILD: "0",
        HOST_SPARES_MAX: "0",
        ...settings,
      },
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  const api = new Agent({ connections: 64, headersTimeout: 0, bodyTimeout: 0 });
  let removeDatabases = async (): Promise<void> => undefined;
  const stop = async () => {
    // Their servers outlive the platform's programs by design, but not the test.
    if (child.exitCode === null && child.signalCode === null)
      await Promise.race([removeDatabases(), delay(removeMs, undefined, { ref: false })]);
    await api.destroy();
    if (child.exitCode === null && child.signalCode === null) {
      const timer = setTimeout(() => child.kill("SIGKILL"), stopMs);
      child.kill("SIGTERM");
      await once(child, "exit");
      clearTimeout(timer);
    }
    unmountBelow(dataDir);
    await rm(dataDir, { recursive: true, force: true });
  };
  try {
    const boot = await bootLine(child);
    const { api_url: apiUrl, api_key: key } = boot;
    const calls = client(apiUrl, key, edgePort, dataDir, api);
    removeDatabases = async () => {
      try {
        const { body } = await calls.api("GET", "/databases?limit=200");
        const all = (body["data"] ?? []) as { id: string }[];
        await Promise.all(all.map(({ id }) => calls.api("DELETE", `/databases/${id}`)));
      } catch {
        // A test may have ended the control plane.
      }
    };
    return {
      edgePort,
      apiUrl,
      apiKey: key,
      dataDir,
      boot,
      stop,
      ...calls,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** The ends of the programs' logs: the data folder does not outlive the test. */
function logTails(dataDir: string): string {
  const folder = join(dataDir, "logs");
  const tailOf = (name: string) => readFileSync(join(folder, name), "utf8").trim().split("\n").slice(-5);
  return readdirSync(folder)
    .map((name) => [`--- ${name}`, ...tailOf(name)].join("\n"))
    .join("\n");
}

function client(apiUrl: string, key: string, edgePort: number, dataDir: string, dispatcher: Dispatcher) {
  const ask: OwnPlatform["api"] = async (method, path, body, otherKey) => {
    const startedAt = performance.now();
    const response = await request(apiUrl + path, {
      method,
      dispatcher,
      headers: {
        authorization: `Bearer ${otherKey ?? key}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      body: body === undefined ? null : JSON.stringify(body),
    });
    const text = await response.body.text();
    const parsed = text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
    return { status: response.statusCode, body: parsed, ms: performance.now() - startedAt };
  };
  const put: OwnPlatform["put"] = async (path, bytes) => {
    const startedAt = performance.now();
    const headers = { authorization: `Bearer ${key}`, "content-type": "application/octet-stream" };
    const response = await request(apiUrl + path, { method: "PUT", dispatcher, headers, body: bytes });
    const body = (await response.body.json()) as Record<string, unknown>;
    return { status: response.statusCode, body, ms: performance.now() - startedAt };
  };
  const must: OwnPlatform["must"] = async (method, path, body) => {
    const answer = await ask(method, path, body);
    if (answer.status >= 300)
      throw new Error(`${method} ${path} answered ${answer.status}: ${JSON.stringify(answer.body)}`);
    return (answer.body["data"] ?? answer.body) as Record<string, unknown>;
  };
  const exec: OwnPlatform["exec"] = async (id, command) => {
    const result = await must("POST", `/sandboxes/${id}/exec`, { command, timeout: 120 });
    if (result["exit_code"] !== 0) throw new Error(`${command}: ${JSON.stringify(result)}`);
    return String(result["stdout"]);
  };
  const sandbox: OwnPlatform["sandbox"] = async (name, files) => {
    const { id } = (await must("POST", "/sandboxes", { name })) as { id: string };
    for (let tries = 0; ; tries++) {
      const seen = await must("GET", `/sandboxes/${id}`);
      if (seen["ready"] === true) break;
      if (seen["state"] === "error" || tries > 600)
        throw new Error(`sandbox ${name} does not come up: ${JSON.stringify(seen)}\n${logTails(dataDir)}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    for (const [path, content] of Object.entries(files))
      await must("POST", `/sandboxes/${id}/files`, {
        path,
        content: Buffer.from(content).toString("base64"),
      });
    return id;
  };
  const visit: OwnPlatform["visit"] = async (url) => {
    const { host, pathname } = new URL(url);
    const response = await request(`http://127.0.0.1:${edgePort}${pathname}`, {
      headers: { host, connection: "close" },
      dispatcher,
      headersTimeout: 20_000,
    });
    return { status: response.statusCode, text: await response.body.text() };
  };
  return { api: ask, put, must, exec, sandbox, visit };
}
