import { spawn } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { createGuestClient, type GuestClient, type GuestConfig } from "@platform/guest-protocol";
import { buildGuest } from "../build.ts";

export interface TestAgent {
  readonly client: GuestClient;
  readonly folder: string;
  readonly home: string;
  readonly workdir: string;
  readonly socketPath: string;
  readonly outboundPath: string;
  readonly pid: number;
}

let bundle: Promise<string> | null = null;

/** One bundle per test file; the file's process removes it at its end. */
async function buildOnce(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "agent-bundle-"));
  await buildGuest(folder);
  const { rmSync } = await import("node:fs");
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Runs the real bundle as a process of its own, in a folder that goes away with the test. */
export async function startAgent(t: TestContext, settings: Partial<GuestConfig> = {}): Promise<TestAgent> {
  bundle ??= buildOnce();
  const image = await bundle;
  const folder = await mkdtemp(join(tmpdir(), "agent-"));
  const home = join(folder, "home");
  const workdir = join(folder, "workspace");
  for (const path of [home, workdir]) await mkdir(path);
  const socketPath = join(folder, "guest.sock");
  const outboundPath = join(folder, "outbound.sock");
  const config: Partial<GuestConfig> = {
    socketPath,
    outboundPath,
    home,
    workdir,
    logDir: join(folder, "log"),
    ...settings,
  };
  const configPath = join(folder, "config.json");
  await writeFile(configPath, JSON.stringify(config));
  const child = spawn(process.execPath, [join(image, "agent.mjs"), configPath], {
    env: {},
    stdio: ["ignore", "ignore", "inherit"],
  });
  const client = createGuestClient({ baseUrl: "http://box", socketPath });
  t.after(async () => {
    client.close();
    const exited = new Promise((resolve) => child.once("exit", resolve));
    if (child.exitCode === null && child.kill("SIGTERM")) {
      const kill = setTimeout(() => child.kill("SIGKILL"), 15_000);
      await exited;
      clearTimeout(kill);
    }
    await rm(folder, { recursive: true, force: true });
  });
  const { waitFor } = await import("@platform/daemon");
  await waitFor("the agent's first answer", async () => (await client.ready()).ok, 20_000, 5);
  return { client, folder, home, workdir, socketPath, outboundPath, pid: child.pid ?? 0 };
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("a TCP server has a port");
  return address.port;
}

/** Shell command for a tiny HTTP server. */
export const serverCommand = (port: number, address: string, status = 200): string =>
  `exec ${process.execPath} -e 'require("http").createServer((q,s)=>{s.statusCode=${status};s.end("hello")}).listen(${port},"${address}")'`;
