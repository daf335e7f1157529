import { execFile, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { waitFor } from "@platform/daemon";
import { serverEnvironment } from "./binaries.ts";
import { commandLine, identify, isAlive, type ProcessIdentity } from "./process-identity.ts";

const run = promisify(execFile);

export interface ServerStart {
  postgres: string;
  cluster: string;
  logFile: string;
  /** uid and gid of the server when we are root; otherwise `null`: it runs as we do. */
  uid: number | null;
  settings: Record<string, string | number>;
}

/**
 * Starts a server in a session of its own, so that it outlives us and a terminal's Ctrl-C does not
 * reach it. Resolves once the process exists; readiness is a login, which is the caller's to make.
 */
export async function startServer(start: ServerStart): Promise<ProcessIdentity> {
  const log = openSync(start.logFile, "a", 0o600);
  try {
    const settings = Object.entries(start.settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    const child = spawn(start.postgres, ["-D", start.cluster, ...settings], {
      cwd: "/",
      env: serverEnvironment,
      detached: true,
      stdio: ["ignore", log, log],
      ...(start.uid === null ? {} : { uid: start.uid, gid: start.uid }),
    });
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", reject);
    });
    child.on("error", () => {
      // Only failures of kill() arrive here once it runs, and servers are signalled by number.
    });
    child.unref();
    const identity = child.pid === undefined ? null : identify(child.pid);
    if (!identity) throw new Error(`Postgres ended at once. ${lastLines(start.logFile)}`);
    return identity;
  } finally {
    closeSync(log);
  }
}

/** The server that runs on a cluster folder, from its postmaster.pid; `null` when there is none. */
export function runningServer(cluster: string): (ProcessIdentity & { port: number }) | null {
  let lines: string[];
  try {
    lines = readFileSync(join(cluster, "postmaster.pid"), "utf8").split("\n");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
  const identity = identify(Number(lines[0]));
  if (!identity) return null;
  // The number may have been given to another program since: a server of this folder names it in its arguments.
  const command = commandLine(identity.pid);
  const folder = command[command.indexOf("-D") + 1];
  if (basename(command[0] ?? "") !== "postgres" || folder !== cluster) return null;
  return { ...identity, port: Number(lines[3]) };
}

/** Stops a server: fast shutdown, after half the time an immediate one, at last SIGKILL. Resolves when it is gone. */
export async function stopServer(server: ProcessIdentity, timeoutMs = 20_000): Promise<void> {
  for (const [signal, share] of [
    ["SIGINT", 0.5],
    ["SIGQUIT", 0.25],
    ["SIGKILL", 0.25],
  ] as const) {
    if (!isAlive(server)) return;
    signalServer(server.pid, signal);
    try {
      await waitFor("the server to stop", () => !isAlive(server), timeoutMs * share, 10);
      return;
    } catch (error) {
      if (signal === "SIGKILL") throw error;
    }
  }
}

function signalServer(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** A port of 127.0.0.1 that nobody listens on at this moment. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("the system gave no port");
  return address.port;
}

export function isPortFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** Gives a tree to a numeric uid and the group of the same number. */
export async function chownTree(folder: string, uid: number): Promise<void> {
  await run("chown", ["-R", "-h", `${uid}:${uid}`, "--", folder], { env: serverEnvironment });
}

/** @param bytes most that is read from the end of the file */
export function lastLines(file: string, lines = 5, bytes = 65_536): string {
  try {
    return readFileSync(file, "utf8").slice(-bytes).trimEnd().split("\n").slice(-lines).join("\n");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}
