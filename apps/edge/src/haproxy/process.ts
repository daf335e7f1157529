import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants } from "node:fs";
import { createInterface } from "node:readline";
import { StringDecoder } from "node:string_decoder";
import { waitFor, type Log } from "@platform/daemon";
import type { Runtime } from "./runtime.ts";

const START_MS = 20_000;
const STOP_MS = 12_000;
const folders = ["/usr/local/sbin", "/usr/sbin", "/usr/local/bin", "/usr/bin", "/sbin", "/bin"];

/** Of the C library: memory of buffers is kept for the next request instead of given back and asked for each time. */
const keepsMemory = {
  MALLOC_MMAP_THRESHOLD_: String(64 * 1024 * 1024),
  MALLOC_TRIM_THRESHOLD_: String(256 * 1024 * 1024),
  MALLOC_TOP_PAD_: String(16 * 1024 * 1024),
};

/** @returns null where the program is not installed */
export function findProgram(name: string): string | null {
  for (const folder of folders) {
    try {
      accessSync(`${folder}/${name}`, constants.X_OK);
      return `${folder}/${name}`;
    } catch {
      // Not in this folder; the next one decides.
    }
  }
  return null;
}

export interface HaproxyOptions {
  readonly configPath: string;
  readonly runtime: Runtime;
  /** Lines of its access log, as many as have arrived. */
  readonly onLines: (lines: readonly string[]) => void;
  /** It ended without being told to. */
  readonly onLost: (code: number | null) => void;
  readonly log: Log;
}

/** One HAProxy, which dies with this process however that ends: without it nobody takes back a route. */
export class Haproxy {
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;
  #isStopping = false;

  private constructor(child: ChildProcess, { onLines, onLost, log }: HaproxyOptions) {
    this.#child = child;
    this.#exited = once(child, "exit").then(([code]) => {
      if (!this.#isStopping) onLost(code as number | null);
    });
    const decoder = new StringDecoder("utf8");
    let rest = "";
    child.stdout!.on("data", (chunk: Buffer) => {
      const lines = (rest + decoder.write(chunk)).split("\n");
      rest = lines.pop()!;
      onLines(lines);
    });
    createInterface({ input: child.stderr! }).on("line", (line) => log.warn({ line }, "haproxy"));
  }

  /** @throws Error when HAProxy is not installed or does not come up */
  static async start(options: HaproxyOptions): Promise<Haproxy> {
    const [haproxy, setpriv] = [findProgram("haproxy"), findProgram("setpriv")];
    if (!haproxy || !setpriv)
      throw new Error(
        "EDGE_DATA_PLANE=haproxy needs haproxy and setpriv: apt-get install haproxy util-linux",
      );
    const child = spawn(setpriv, ["--pdeathsig", "KILL", haproxy, "-db", "-f", options.configPath], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { PATH: folders.join(":"), LANG: "C.UTF-8", ...keepsMemory },
    });
    const started = new Haproxy(child, options);
    try {
      await waitFor(
        "HAProxy to answer",
        async () => {
          if (child.exitCode !== null) throw new Error(`HAProxy ended with ${child.exitCode}`);
          return (await options.runtime.ask("show version")).trim() !== "";
        },
        START_MS,
      );
    } catch (error) {
      await started.stop();
      throw error;
    }
    return started;
  }

  /** Takes no new connection and lets requests finish, for some time. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill("SIGUSR1");
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), STOP_MS);
    await this.#exited;
    clearTimeout(timer);
  }
}
