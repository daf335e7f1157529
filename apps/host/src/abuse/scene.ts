import { execFile } from "node:child_process";
import type { TestContext } from "node:test";
import { promisify } from "node:util";
import type { GuestClient } from "@platform/guest-protocol";
import type { BoxSpec } from "@platform/host-api";
import { guestOf, spec, startTestHost, whyNoBoxes, type TestHost } from "../testing.ts";

/** `HOST_DRIVERS=gvisor` runs the same attempts against another driver. */
export const driver = process.env["HOST_DRIVERS"] ?? "bubblewrap";
export const skip = whyNoBoxes() ?? false;
/** For attempts on the machine's own kernel. */
export const ownKernel = driver === "bubblewrap" ? false : "a box of this driver has a kernel of its own";
/** Of tests that are about limits, pauses and disks of boxes: only root can make them. */
export const needsGroups: string | false =
  process.getuid?.() === 0 ? false : "needs control groups and disks of its own, which only root can make";
export const mib = 1024 * 1024;

export interface Scene {
  readonly host: TestHost;
  /** Another tenant's box, with a server on port 8123 and a secret in its environment and files. */
  readonly neighbour: GuestClient;
  readonly attacker: GuestClient;
  /** Runs a shell command in the attacker's box; its outputs together, trimmed. */
  attack(command: string, timeoutMs?: number): Promise<string>;
  /** Runs the same on the machine, in no box: what an attempt would see if nothing contained it. */
  outside(command: string): Promise<string>;
  /** Runs a script of Python in the attacker's box. */
  python(script: string): Promise<string>;
  /** The host, the neighbour and the attacker's own box still do their work. */
  unharmed(): Promise<void>;
}

export const secret = "the-neighbours-secret";
const server = `node -e 'require("http").createServer((q,s)=>s.end("neighbour")).listen(8123,"0.0.0.0")'`;

/** One host with an attacker and a neighbour, for all attempts of a file: a start costs more than an attempt. */
export async function openScene(t: TestContext, changes: Partial<BoxSpec> = {}): Promise<Scene> {
  const host = await startTestHost(t, { driver });
  await host.client.putBox(
    "box-neighbour",
    spec({
      env: { SECRET: secret },
      services: [{ name: "web", command: server, cwd: "/workspace", env: {}, restart: "always" }],
    }),
  );
  await host.client.putBox("box-attacker", spec({ egress: { mode: "allow-all" }, ...changes }));
  const neighbour = guestOf(t, host, "box-neighbour");
  const attacker = guestOf(t, host, "box-attacker");
  await neighbour.writeFile("/workspace/secret", secret);
  const attack: Scene["attack"] = async (command, timeoutMs = 120_000) => {
    const { stdout, stderr } = await attacker.exec(command, { timeoutMs, maxOutputBytes: mib });
    return `${stdout}${stderr}`.trim();
  };
  return {
    ...{ host, neighbour, attacker, attack },
    outside: async (command) => {
      const { stdout, stderr } = await promisify(execFile)("sh", ["-c", command], { maxBuffer: 64 * mib });
      return `${stdout}${stderr}`.trim();
    },
    python: async (script) => {
      await attacker.writeFile("/workspace/attempt.py", script);
      return attack("python3 /workspace/attempt.py");
    },
    unharmed: async () => {
      process.kill(host.pid, 0);
      const answers = [await neighbour.exec("cat secret"), await attacker.exec("echo alive")];
      const seen = answers.map(({ stdout }) => stdout.trim()).join(" ");
      if (seen !== `${secret} alive`) throw new Error(`something was harmed: ${seen}`);
    },
  };
}
