import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { request, type IncomingHttpHeaders } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { createTestDatabase } from "@platform/postgres/testing";

const repository = join(import.meta.dirname, "..", "..", "..");
export const edgeToken = "edge-token-of-the-test-00001";
const storeToken = "t".repeat(40);

export interface Program {
  readonly port: number;
  readonly child: ChildProcess;
  log(): string;
  /** SIGKILL, as a power cut would. */
  kill(): Promise<void>;
}

/** Starts a program of this repository and waits for the line with its port; it is killed when the test ends. */
export async function startProgram(
  t: TestContext,
  name: string,
  env: Record<string, string | number>,
): Promise<Program> {
  const child = spawn(process.execPath, [join(repository, "apps", name, "src", "main.ts")], {
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      PATH: process.env["PATH"] ?? "",
      LOG_LEVEL: "warn",
      ...Object.fromEntries(Object.entries(env).map(([key, value]) => [key, String(value)])),
    },
  });
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (log += text));
  const exited = once(child, "exit");
  const kill = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await exited;
  };
  t.after(kill);
  const line = await Promise.race([
    once(createInterface({ input: child.stdout }), "line"),
    exited.then(() => null),
  ]);
  if (!line) throw new Error(`${name} did not start:\n${log}`);
  return { port: (JSON.parse(String(line[0])) as { port: number }).port, child, log: () => log, kill };
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly bytes: Buffer;
  readonly text: string;
}

/** One request to a local port under any host name. */
export function ask(
  port: number,
  host: string,
  path: string,
  options: { method?: string; headers?: Record<string, string>; body?: string | Buffer } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        host: "127.0.0.1",
        port,
        path,
        method: options.method ?? "GET",
        agent: false,
        headers: {
          host,
          ...(options.body === undefined ? {} : { "content-length": Buffer.byteLength(options.body) }),
          ...options.headers,
        },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("error", reject);
        response.on("end", () => {
          const bytes = Buffer.concat(chunks);
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            bytes,
            text: bytes.toString(),
          });
        });
      },
    );
    sent.on("error", reject);
    sent.end(options.body);
  });
}

export interface Programs {
  readonly databaseUrl: string;
  /** Where the object store keeps its blobs. */
  readonly objectsFolder: string;
  readonly key: string;
  readonly domain: string;
  readonly controlPlane: Program;
  readonly edge: Program;
  readonly store: Program;
  startControlPlane(extra?: Record<string, string>): Promise<Program>;
  killControlPlanes(): Promise<void>;
  startStore(): Promise<Program>;
  /** Another edge, or the same once more, with further settings. */
  startEdge(more?: Record<string, string>): Promise<Program>;
  /** Data folder of edges and store; gone when the test ends. */
  readonly folder: string;
  /** A call of the API through the edge, parsed. */
  api(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<ApiAnswer>;
  /** Any URL of the platform, whatever the resolver of this machine knows about its name. */
  fetch(url: string, options?: Parameters<typeof ask>[3]): Promise<Answer>;
}

export interface ApiAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** What stands at a path of the parsed answer; a wrong path fails the assertion that reads it. */
  at<T = string>(...path: (string | number)[]): T;
}

function readPath(value: unknown, path: readonly (string | number)[]): unknown {
  return path.reduce<unknown>((inner, name) => (inner as Record<string, unknown> | null)?.[name], value);
}

export async function freePort(): Promise<number> {
  const { createServer } = await import("node:net");
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

/**
 * Control plane, object store and edge as they run in production, on a database and folder of their own.
 * No host: what needs a box finds none.
 */
export async function startPrograms(
  t: TestContext,
  extra: Record<string, string> = {},
  edgeExtra: Record<string, string> = {},
): Promise<Programs> {
  const database = await createTestDatabase();
  const folder = await mkdtemp(join(tmpdir(), "resources-test-"));
  t.after(async () => {
    await database.drop();
    await rm(folder, { recursive: true, force: true });
  });
  const [storePort, edgePort] = [await freePort(), await freePort()];
  const startStore = () =>
    startProgram(t, "object-store", {
      OBJECT_STORE_PORT: storePort,
      OBJECT_STORE_DATA_DIR: join(folder, "objects"),
      DATABASE_URL: database.url,
      OBJECT_STORE_TOKEN: storeToken,
      OBJECT_STORE_ENCRYPTION_KEY: "ab".repeat(32),
    });
  const store = await startStore();
  const keyFile = join(folder, "key");
  const domain = "clinic.localhost";
  const controlPlanes: Program[] = [];
  const startControlPlane = async (more: Record<string, string> = {}) => {
    const program = await startProgram(t, "control-plane", {
      DATABASE_URL: database.url,
      HOST_URL: "http://127.0.0.1:9",
      HOST_TOKEN: "host-token-of-the-test-00001",
      EDGE_TOKEN: edgeToken,
      ENCRYPTION_KEY: "cd".repeat(32),
      TENANT_DOMAIN: domain,
      PUBLIC_PORT: edgePort,
      OBJECT_STORE_URL: `http://127.0.0.1:${storePort}`,
      OBJECT_STORE_TOKEN: storeToken,
      BOOTSTRAP_KEY_FILE: keyFile,
      ...extra,
      ...more,
    });
    controlPlanes.push(program);
    return program;
  };
  const controlPlane = await startControlPlane();
  const startEdge = (more: Record<string, string> = {}) =>
    startProgram(t, "edge", {
      EDGE_LISTEN_PORT: edgePort,
      EDGE_ID: "test",
      EDGE_TOKEN: edgeToken,
      CONTROL_PLANE_URL: `http://127.0.0.1:${controlPlane.port}`,
      HOST_TOKEN: extra["HOST_TOKEN"] ?? "host-token-of-the-test-00001",
      EDGE_DATA_DIR: join(folder, "edge"),
      ARTIFACTS_DIR: extra["ARTIFACTS_DIR"] ?? join(folder, "artifacts"),
      PUBLIC_PORT: edgePort,
      ...edgeExtra,
      ...more,
    });
  const edge = await startEdge();
  const key = (await readFile(keyFile, "utf8")).trim();
  const api: Programs["api"] = async (method, path, body, headers = {}) => {
    const isBytes = typeof body === "string" || Buffer.isBuffer(body);
    const answer = await ask(edge.port, `api.${domain}:${edge.port}`, `/api/v1${path}`, {
      method,
      headers: {
        authorization: `Bearer ${key}`,
        ...(body === undefined || isBytes ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: isBytes ? body : JSON.stringify(body) }),
    });
    const isJson = String(answer.headers["content-type"]).includes("application/json");
    const parsed: unknown = isJson ? JSON.parse(answer.text) : {};
    return { ...answer, at: <T>(...path: (string | number)[]) => readPath(parsed, path) as T };
  };
  let last = "";
  await waitFor(
    "the API through the edge",
    async () => {
      const answer = await api("GET", "/whoami");
      last = answer.text;
      return answer.status === 200;
    },
    20_000,
  ).catch((cause: unknown) => {
    throw new Error(`the API does not answer: ${last}\n${controlPlane.log()}`, { cause });
  });
  return {
    databaseUrl: database.url,
    objectsFolder: join(folder, "objects"),
    key,
    domain,
    controlPlane,
    edge,
    store,
    startControlPlane,
    killControlPlanes: async () => {
      await Promise.all(controlPlanes.splice(0).map((program) => program.kill()));
    },
    startStore,
    startEdge,
    folder,
    api,
    fetch: (url, options) => {
      const { host, pathname, search } = new URL(url);
      return ask(edge.port, host, pathname + search, options);
    },
  };
}
