import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import type { RouteTarget } from "@platform/edge-api";
import { boxes } from "./rig.ts";

/** A program of this folder that tells in lines of JSON and ends with its standard input. */
class Helper {
  readonly #child: ChildProcess;
  readonly #lines: Interface;
  readonly #exited: Promise<unknown>;

  constructor(name: string, words: readonly string[] = []) {
    this.#child = spawn(process.execPath, [join(import.meta.dirname, name), ...words], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#exited = once(this.#child, "exit");
    this.#lines = createInterface({ input: this.#child.stdout! });
  }

  async line<Line>(): Promise<Line> {
    const first = await Promise.race([once(this.#lines, "line"), this.#exited.then(() => null)]);
    if (!first) throw new Error("a helper of the test ended");
    return JSON.parse(String(first[0])) as Line;
  }

  say(line: string): void {
    this.#child.stdin!.write(`${line}\n`);
  }

  async stop(): Promise<void> {
    this.#child.stdin!.end();
    await this.#exited;
  }
}

export interface CrowdHost {
  readonly target: RouteTarget;
  stop(): Promise<void>;
}

/** A host with an app that echoes on WebSockets, in a process of its own. */
export async function startCrowdHost(): Promise<CrowdHost> {
  const helper = new Helper("crowd-host.ts");
  const { url } = await helper.line<{ url: string }>();
  return {
    target: boxes({ hostUrl: url, boxKey: "box-crowd", port: 3000 }),
    stop: () => helper.stop(),
  };
}

export interface Crowd {
  readonly open: number;
  /** By status or error. */
  readonly refused: Readonly<Record<string, number>>;
  /** @returns how many of them heard their own words back */
  echo(text: string): Promise<number>;
  stop(): Promise<void>;
}

/** WebSockets from a process of their own, once all of them are open or refused. */
export async function gather(port: number, hostname: string, count: number): Promise<Crowd> {
  const helper = new Helper("crowd-clients.ts", [String(port), hostname, String(count)]);
  const state = await helper.line<Pick<Crowd, "open" | "refused">>();
  const echo = async (text: string) => {
    helper.say(text);
    return (await helper.line<{ heard: number }>()).heard;
  };
  return { ...state, echo, stop: () => helper.stop() };
}
