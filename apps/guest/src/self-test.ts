import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { open, readdir, unlink } from "node:fs/promises";
import { join } from "node:path";
import type { SelfTest } from "@platform/guest-protocol";
import type { Environment } from "./environment.ts";
import type { Supervisor } from "./services/supervisor.ts";

const commandTimeoutMs = 10_000;
const mostOutput = 4096;

/**
 * What a box has to be able to do, done once: a file is written, synced and read by a command that runs
 * as the box's programs do. One call, as each costs a round trip through the host.
 */
export async function selfTest(environment: Environment, supervisor: Supervisor): Promise<SelfTest> {
  const word = randomBytes(9).toString("base64url");
  const path = join(environment.workdir, `.readiness-${word}`);
  const failures: string[] = [];
  const note = (error: unknown) => void failures.push((error as Error).message);
  const written = await writeSynced(path, word).then(
    () => true,
    (error: unknown) => (note(error), false),
  );
  try {
    const [command, entries] = await Promise.all([
      runCommand(environment.for(), path),
      readdir(environment.workdir).catch((error: unknown) => (note(error), [])),
    ]);
    return {
      exitCode: command.exitCode,
      uid: command.said.has("uid") ? Number(command.said.get("uid")) : null,
      home: command.said.get("home") ?? null,
      clockMs: Date.now(),
      durable: written && command.said.get("file") === word,
      listed: entries.length > 0,
      services: supervisor.list().length,
      detail: [...failures, command.stderr].join("; ").slice(0, 500),
    };
  } finally {
    if (written) await unlink(path).catch(() => undefined); // A later test of its name is impossible.
  }
}

async function writeSynced(path: string, text: string): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.writeFile(`${text}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Of the shell itself: no further program, as each would take longer than all the rest. */
const script = `while read -r name real rest; do [ "$name" = Uid: ] && echo "uid=$real"; done < /proc/self/status
echo "home=$HOME"
read -r word < "$1" && echo "file=$word"`;

interface Said {
  readonly exitCode: number | null;
  readonly said: ReadonlyMap<string, string>;
  readonly stderr: string;
}

function runCommand(env: Record<string, string>, path: string): Promise<Said> {
  return new Promise((resolve) => {
    const child = spawn("/bin/sh", ["-c", script, "sh", path], {
      ...{ cwd: "/", env, timeout: commandTimeoutMs, killSignal: "SIGKILL" },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let [out, stderr] = ["", ""];
    child.stdout.on("data", (chunk: Buffer) => (out = (out + chunk.toString()).slice(0, mostOutput)));
    child.stderr.on("data", (chunk: Buffer) => (stderr = (stderr + chunk.toString()).slice(0, mostOutput)));
    child.once("error", (error) => resolve({ exitCode: null, said: new Map(), stderr: error.message }));
    child.once("close", (exitCode) => {
      const pairs = out.split("\n").map((line) => line.split("=", 2) as [string, string]);
      resolve({ exitCode, said: new Map(pairs), stderr });
    });
  });
}
