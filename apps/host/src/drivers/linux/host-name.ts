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
export function armHostName(member: ProcessIdentity): ArmedHostName {
  const child = spawn("nsenter", [`--uts=/proc/${member.pid}/ns/uts`, "/bin/sh", "-c", script], {
    stdio: ["pipe", "pipe", "ignore"],
    env: {},
    cwd: "/",
  });
  let failure: Error | null = null;
  child.on("error", (error) => (failure = error));
  child.stdin.on("error", () => undefined); // Its end is seen by its answer.
  child.unref();
  return {
    set: async (name) => {
      const timer = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
      try {
        let said = "";
        child.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
        child.stdin.end(`${name}\n`);
        if (child.exitCode === null && failure === null) await once(child, "close");
        if (said.trim() !== name) throw new Error("the host name could not be set", { cause: failure });
      } finally {
        clearTimeout(timer);
      }
    },
    disarm: () => child.stdin.destroy(),
  };
}
