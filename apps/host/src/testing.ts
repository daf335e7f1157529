import { spawn, type ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { chmod, mkdtemp, readdir, readFile, realpath, rm, rmdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { createGuestClient, type GuestClient } from "@platform/guest-protocol";
import { HostClient, type BoxSpec } from "@platform/host-api";
import { unmountBelow } from "./drivers/linux/mounts.ts";

const repository = resolve(import.meta.dirname, "../../..");
const token = "a-token-that-only-tests-use";

/** One daemon in a process of its own, on a data folder that outlives it. */
export interface TestHost {
  readonly client: HostClient;
  readonly dataDir: string;
  /** Text that marks this daemon's processes and control groups. */
  readonly tag: string;
  /** Of the daemon that runs now. */
  readonly pid: number;
  kill(signal: NodeJS.Signals): Promise<void>;
  /** The daemon kills itself when it next comes to this point. */
  armFault(name: string): Promise<void>;
  start(): Promise<void>;
}

let builtImage: Promise<string> | null = null;

/** The guest agent, bundled once a test process. */
async function guestImage(): Promise<string> {
  builtImage ??= (async () => {
    const folder = await mkdtemp(join(tmpdir(), "guest-image-"));
    await chmod(folder, 0o755);
    const build = spawn(process.execPath, [join(repository, "apps/guest/build.ts"), folder], {
      stdio: "inherit",
    });
    const code = await new Promise((done) => build.once("exit", done));
    if (code !== 0) throw new Error(`the guest agent could not be bundled: exit code ${String(code)}`);
    process.once("exit", () => {
      spawn("rm", ["-rf", folder], { detached: true, stdio: "ignore" }).unref();
    });
    return folder;
  })();
  return builtImage;
}

/** Why boxes cannot be made here, or `null`. */
export function whyNoBoxes(): string | null {
  const isThere = (process.env["PATH"] ?? "").split(":").some((folder) => existsSync(join(folder, "bwrap")));
  return isThere ? null : "bwrap is not installed: apt-get install bubblewrap";
}

/** Built from the distribution's package by the set-up; `null` where that was not possible. */
function runtimeProgram(): string | null {
  const program = join(repository, ".toolchain/runsc/usr/bin/runsc");
  return existsSync(program) ? program : null;
}

/** Why boxes with a kernel of their own cannot be made here, or `null`. */
export function whyNoRuntime(): string | null {
  return runtimeProgram() === null ? "runsc is not in .toolchain: node scripts/gvisor-runtime.mjs" : null;
}

interface Daemon {
  readonly dataDir: string;
  readonly image: string;
  readonly faultPoints: string;
  readonly driver: string;
  readonly settings: Readonly<Record<string, string>>;
}

async function launch(daemon: Daemon): Promise<[ChildProcess, number]> {
  const { dataDir, image, faultPoints, driver, settings } = daemon;
  const runsc = runtimeProgram();
  const child = spawn(process.execPath, [join(import.meta.dirname, "main.ts")], {
    stdio: ["ignore", "ignore", "pipe"],
    env: {
      PATH: process.env["PATH"],
      HOME: process.env["HOME"],
      HOST_LISTEN_PORT: "0",
      HOST_TOKEN: token,
      HOST_DATA_DIR: dataDir,
      GUEST_IMAGE_DIR: image,
      TOOLCHAIN_DIR: await realpath(join(repository, ".toolchain/node")),
      HOST_ID: "test-host",
      HOST_DRIVERS: driver,
      ...(runsc === null ? {} : { RUNSC_BIN: runsc }),
      FAULT_POINTS_DIR: faultPoints,
      SECRET_OF_THE_DAEMON: "must-not-be-seen",
      // A box's folder then has its key for a name, and nothing runs that the test did not start.
      HOST_POOL_MAX: "0",
      HOST_SPARES_MAX: "0",
      ...settings,
    },
  });
  let text = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  const port = await waitFor(
    "the daemon to serve",
    () => {
      if (child.exitCode !== null) return -1;
      const found = /"port":(\d+)[^\n]*"host serves"/.exec(text)?.[1];
      return found === undefined ? undefined : Number(found);
    },
    150_000, // It tries its drivers first, and gives each up to 120 s.
  );
  if (port === -1) throw new Error(`the daemon ended: ${text}`);
  child.once("exit", (code) => {
    if (code !== null && code !== 0)
      process.stderr.write(`the daemon ended with exit code ${code}: ${text.slice(-4000)}\n`);
  });
  return [child, port];
}

/**
 * Starts a daemon that makes boxes by one driver; when the test ends, every box, process, group and
 * folder of it is removed. Other members of `options` are settings of the daemon.
 */
export async function startTestHost(
  t: TestContext,
  { driver = "bubblewrap", ...settings }: Readonly<Record<string, string>> = {},
): Promise<TestHost> {
  const dataDir = await mkdtemp(join(tmpdir(), "host-test-"));
  const faultPoints = await mkdtemp(join(tmpdir(), "host-faults-"));
  const image = await guestImage();
  let child: ChildProcess | null = null;
  let client: HostClient | null = null;
  const kill = async (signal: NodeJS.Signals) => {
    const running = child;
    child = null;
    await client?.close();
    if (!running || running.exitCode !== null || running.signalCode !== null) return;
    const ended = new Promise((done) => running.once("exit", done));
    running.kill(signal);
    await ended;
  };
  const start = async () => {
    const [started, port] = await launch({ dataDir, image, faultPoints, driver, settings });
    child = started;
    client = new HostClient({ url: `http://127.0.0.1:${port}`, token });
  };
  await start();
  const tag = createHash("sha256").update(dataDir).digest().toString("hex", 0, 6);
  t.after(async () => {
    await kill("SIGKILL");
    await start();
    for (const box of (await client?.boxes()) ?? []) await client?.deleteBox(box.key);
    for (const database of (await client?.databases()) ?? []) await client?.deleteDatabase(database.key);
    await kill("SIGTERM");
    await removeGroups(tag);
    await unmountBelow(dataDir); // Nothing, unless a test failed half-way.
    await rm(dataDir, { recursive: true, force: true });
    await rm(faultPoints, { recursive: true, force: true });
  });
  return {
    get client() {
      if (!client) throw new Error("the daemon does not run");
      return client;
    },
    get pid() {
      if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null)
        throw new Error("the daemon does not run");
      return child.pid;
    },
    ...{ dataDir, tag, kill, start },
    armFault: (name) => writeFile(join(faultPoints, name), ""),
  };
}

/** Control groups of one daemon, at every place where it may have made them. */
export async function groupsOf(tag: string): Promise<string[]> {
  const found: string[] = [];
  const mounts = (await readFile("/proc/self/mountinfo", "utf8"))
    .split("\n")
    .filter((line) => / - cgroup2? /.test(line))
    .map((line) => line.split(" ")[4] ?? "");
  for (const mount of mounts) {
    const parent = join(mount, `boxes-${tag}`);
    const entries = await readdir(parent, { withFileTypes: true }).catch(() => []);
    found.push(...entries.filter((entry) => entry.isDirectory()).map((entry) => join(parent, entry.name)));
  }
  return found;
}

async function removeGroups(tag: string): Promise<void> {
  for (const controller of ["memory", "pids", "cpu", "cpuacct", "freezer"]) {
    await rmdir(`/sys/fs/cgroup/${controller}/boxes-${tag}`).catch(() => undefined); // Not on every machine.
  }
  await rmdir(`/sys/fs/cgroup/boxes-${tag}`).catch(() => undefined);
}

const mib = 1024 * 1024;

export function spec(changes: Partial<BoxSpec> = {}): BoxSpec {
  return {
    purpose: "sandbox",
    minimumIsolation: "namespaces",
    content: { type: "empty" },
    limits: { memoryBytes: 512 * mib, cpuMillis: 1000, maxProcesses: 128, diskBytes: 512 * mib },
    egress: { mode: "deny-all" },
    ...changes,
  };
}

export const service = (name: string, command: string, restart: "always" | "never" = "never") => ({
  ...{ name, command, restart, cwd: "/workspace", env: {} },
});

/** Client of the agent of one box, through the host. */
export function guestOf(t: TestContext, host: TestHost, key: string): GuestClient {
  const { url, token: bearer } = host.client.address;
  const headers = { authorization: `Bearer ${bearer}` };
  const guest = createGuestClient({ baseUrl: `${url}/boxes/${key}/guest`, headers });
  t.after(() => guest.close());
  return guest;
}
