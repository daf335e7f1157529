import { spawn } from "node:child_process";
import { once } from "node:events";
import type { ProcessIdentity } from "./processes.ts";

/** A process that waits to give a box its host name. It ends with this daemon, unused. */
export interface ArmedHostName {
  /** @throws Error when the kernel did not take the name */
  set(name: string): Promise<void>;
  disarm(): void;
}

const script =
  'read -r name && printf %s "$name" > /proc/sys/kernel/hostname && cat /proc/sys/kernel/hostname';
const timeoutMs = 5_000;

/**
 * Enters the host-name namespace of a box, and no other of its namespaces: nothing of the box runs in
 * that process. Starting it takes longer than the rest of a claim, so it is started ahead.
 */
export const armHostName = (member: ProcessIdentity): ArmedHostName =>
  armCommand("nsenter", [`--uts=/proc/${member.pid}/ns/uts`, "/bin/sh", "-c", script]);

/**
 * Starts a program that reads a host name, sets it and says it again; it ends, unused, with its input.
 *
 * @param file descriptor that the program gets as its number 3
 */
export function armCommand(program: string, args: readonly string[], file?: number): ArmedHostName {
  const child = spawn(program, args, {
    stdio: ["pipe", "pipe", "ignore", file ?? "ignore"],
    env: {},
    cwd: "/",
  });
  const { stdin, stdout } = child;
  if (!stdin || !stdout) throw new Error(`${program} was started without pipes`);
  let failure: Error | null = null;
  let said = "";
  child.on("error", (error) => (failure = error));
  stdin.on("error", () => undefined); // Its end is seen by its answer.
  stdout.on("data", (chunk: Buffer) => (said = (said + chunk.toString()).slice(0, 256)));
  child.unref();
  return {
    set: async (name) => {
      const timer = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
      try {
        stdin.end(`${name}\n`);
        if (child.exitCode === null && failure === null) await once(child, "close");
        if (said.trim() !== name) throw new Error("the host name could not be set", { cause: failure });
      } finally {
        clearTimeout(timer);
      }
    },
    disarm: () => {
      stdin.destroy();
      child.kill("SIGKILL");
    },
  };
}
