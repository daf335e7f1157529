import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { request } from "undici";

const repository = join(import.meta.dirname, "..", "..", "..");

export interface Program {
  readonly pid: number;
  readonly words: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
}

/** What runs for one data folder: every program names it in its command or its environment. */
export function programsOf(dataDir: string): Program[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const parts = (file: string) => readFileSync(`/proc/${name}/${file}`, "utf8").split("\0");
        const environment = Object.fromEntries(
          parts("environ").map((line) => {
            const at = line.indexOf("=");
            return [line.slice(0, at), line.slice(at + 1)];
          }),
        );
        return [{ pid: Number(name), words: parts("cmdline"), environment }];
      } catch {
        // It ended meanwhile.
        return [];
      }
    })
    .filter(({ words, environment }) =>
      [...words, ...Object.values(environment)].some((text) => text.includes(dataDir)),
    );
}

/** @throws Error when there is not exactly one */
export function oneProgram(dataDir: string, what: string, pick: (program: Program) => boolean): Program {
  const found = programsOf(dataDir).filter(pick);
  if (found.length !== 1) throw new Error(`${found.length} of ${what} run, not 1`);
  return found[0]!;
}

export const supervisorOf = (dataDir: string): Program =>
  oneProgram(dataDir, "the supervisor", ({ words }) => words.includes("--serve") && words.includes(dataDir));

export const appOf = (dataDir: string, name: string): Program =>
  oneProgram(dataDir, name, ({ words }) => words.some((word) => word.endsWith(`apps/${name}/src/main.ts`)));

/** The server of the control plane's own database. */
export const databaseOf = (dataDir: string): Program =>
  oneProgram(dataDir, "the database server", ({ words }) => {
    const at = words.indexOf("-D");
    return at > 0 && words[at + 1]!.startsWith(join(dataDir, "postgres"));
  });

export interface OwnEdge {
  readonly pid: number;
  readonly port: number;
  /** From its start to its first line, milliseconds. */
  readonly readyMs: number;
  /** One request by public host name, on a connection of its own. */
  visit(url: string): Promise<{ status: number; text: string }>;
  stop(): Promise<void>;
}

/** An edge like the one whose environment is given. */
export async function startEdge(like: Program, settings: Readonly<Record<string, string>>): Promise<OwnEdge> {
  const startedMs = performance.now();
  const child: ChildProcess = spawn(process.execPath, [join(repository, "apps/edge/src/main.ts")], {
    env: { ...like.environment, ...settings },
    stdio: ["ignore", "pipe", "ignore"],
  });
  const lines = createInterface({ input: child.stdout! });
  const ready = await Promise.race([once(lines, "line"), once(child, "exit").then(() => null)]);
  if (!ready) throw new Error("the edge did not start");
  const readyMs = performance.now() - startedMs;
  const { port } = JSON.parse(String(ready[0])) as { port: number };
  return {
    pid: child.pid!,
    port,
    readyMs,
    visit: (url) => visit(port, url),
    stop: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGKILL");
      await once(child, "exit");
    },
  };
}

export async function visit(port: number, url: string): Promise<{ status: number; text: string }> {
  const { host, pathname } = new URL(url);
  const response = await request(`http://127.0.0.1:${port}${pathname}`, {
    headers: { host, connection: "close" },
    headersTimeout: 60_000,
  });
  return { status: response.statusCode, text: await response.body.text() };
}
