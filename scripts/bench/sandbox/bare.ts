import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildGuest } from "../../../apps/guest/build.ts";
import { createGuestClient } from "../../../packages/guest-protocol/src/index.ts";
import { until } from "../peers.ts";

const repository = join(import.meta.dirname, "..", "..", "..");
const ownRuntime = join(repository, ".toolchain/runsc/usr/bin/runsc");
export const runscProgram = existsSync(ownRuntime) ? ownRuntime : "runsc";

/** The tools that our drivers are built on, with nothing of ours around them but the agent. */
export class BareTools {
  readonly folder = mkdtempSync(join(tmpdir(), "bench-sandbox-"));
  readonly #image = join(this.folder, "image");
  #count = 0;

  static async open(): Promise<BareTools> {
    const tools = new BareTools();
    chmodSync(tools.folder, 0o755);
    mkdirSync(tools.#image);
    await buildGuest(tools.#image);
    return tools;
  }

  close(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** bwrap and our agent in it until a first command ended. */
  async bubblewrap(): Promise<void> {
    const box = await this.startAgent();
    await box.end();
  }

  /** A bare box that goes on running; ready when a command ended in it. */
  async startAgent(): Promise<{ pid: number; end: () => Promise<void> }> {
    const own = join(this.folder, `box-${this.#count++}`);
    for (const name of ["", "home", "workspace", "log"]) mkdirSync(join(own, name));
    const socketPath = join(own, "guest.sock");
    const config = {
      ...{ socketPath, outboundPath: join(own, "outbound.sock"), logDir: join(own, "log") },
      ...{ home: join(own, "home"), workdir: join(own, "workspace") },
    };
    writeFileSync(join(own, "config.json"), JSON.stringify(config));
    const mounts = ["--ro-bind", "/", "/", "--bind", own, own, "--proc", "/proc", "--dev", "/dev"];
    const args = [...mounts, "--unshare-all", "--die-with-parent"];
    const command = [process.execPath, join(this.#image, "agent.mjs"), join(own, "config.json")];
    const child = spawn("bwrap", [...args, ...command], { stdio: "ignore", env: {} });
    const client = createGuestClient({ baseUrl: "http://box", socketPath });
    await until(async () => (await client.ready()).ok);
    const { stdout } = await client.exec("echo $((6*7))");
    if (stdout !== "42\n") throw new Error("the bare box computed wrongly");
    client.close();
    return { pid: child.pid ?? 0, end: () => end(child, own) };
  }

  /** runsc and a shell in it until its first output; no agent, so less than a box of ours does. */
  async gvisor(): Promise<void> {
    const root = mkdtempSync(join(this.folder, "runsc-"));
    const flags = [`--root=${root}`, "--network=none", "--ignore-cgroups"];
    const command = [process.execPath, "-e", "process.stdout.write(String(6*7))"];
    const { text } = await output(runscProgram, [...flags, "do", ...command]);
    if (text !== "42") throw new Error(`the bare box computed ${JSON.stringify(text)}`);
  }
}

async function end(child: ChildProcess, folder: string): Promise<void> {
  const gone = once(child, "exit");
  child.kill("SIGKILL");
  await gone;
  rmSync(folder, { recursive: true, force: true });
}

/** @throws Error with the end of what the program wrote, unless it ends with 0 */
export async function output(
  command: string,
  args: readonly string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<{ text: string }> {
  const child = spawn(command, args, { ...options, stdio: ["ignore", "pipe", "pipe"] });
  let [text, errors] = ["", ""];
  child.stdout.on("data", (chunk: Buffer) => (text += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0) throw new Error(`${command} ended with ${code}: ${errors.slice(-800)}${text.slice(-400)}`);
  return { text };
}

interface HostRecord {
  readonly key: string;
  readonly phase: string;
  readonly driverState: Record<string, { pid: number } | undefined> | null;
}

/** What the host of a platform in this data folder wrote down about its boxes. */
export function hostRecords(dataDir: string): HostRecord[] {
  const home = join(dataDir, "host", "boxes");
  return readdirSync(home).flatMap((place) => {
    try {
      return [JSON.parse(readFileSync(join(home, place, "state.json"), "utf8")) as HostRecord];
    } catch {
      return []; // Made or removed at this moment.
    }
  });
}

/** The bare tool's way to run a command in a box of ours. */
export function bareExec(dataDir: string, sandboxId: string): { name: string; run: () => Promise<unknown> } {
  const state = hostRecords(dataDir).find(({ key }) => key === `sb-${sandboxId}`)?.driverState ?? {};
  const pid = state["init"]?.pid;
  if (pid !== undefined) {
    const args = ["-t", String(pid), "-m", "-p", "-n", "-i", "-u", "/bin/sh", "-c", "true"];
    return { name: "`nsenter` … `sh -c true`", run: () => output("nsenter", args, { env: {} }) };
  }
  const kernel = state["sandbox"]?.pid;
  if (kernel === undefined) throw new Error("this driver's box is not known to the benchmark");
  const words = readFileSync(`/proc/${kernel}/cmdline`, "utf8").split("\0").filter(Boolean);
  const root = words.find((word) => word.startsWith("--root="));
  const args = [root ?? "", "exec", words.at(-1) ?? "", "/bin/sh", "-c", "true"];
  return { name: "`runsc exec` … `sh -c true`", run: () => output(runscProgram, args) };
}
