import { spawn } from "node:child_process";
import { readdir, readFile, readlink } from "node:fs/promises";
import { join } from "node:path";
import type { Writable } from "node:stream";
import type { ProcessIdentity } from "../linux/processes.ts";

/** Name that QEMU gives the file without a name which is the guest's memory. */
const memoryName = "/memfd:memory-backend-memfd";
/** A shell that waits for a line, so that what it writes counts as the box's memory, not as the host's. */
const gate = 'read -r _ <&3 && exec "$0" "$@" 3<&-';
const maxWords = 4096;

/**
 * Where the host reaches the memory of a machine that answers on its control connection.
 *
 * @param init process 1 of QEMU's jail
 * @throws Error when that machine has none, or has ended
 */
export async function guestMemory({ pid: init }: ProcessIdentity): Promise<string> {
  const children = await readFile(`/proc/${init}/task/${init}/children`, "utf8").catch(() => "");
  for (const pid of [String(init), ...children.split(" ").filter(Boolean)]) {
    const folder = `/proc/${pid}/fd`;
    for (const name of await readdir(folder).catch(() => [])) {
      const target = await readlink(join(folder, name)).catch(() => ""); // Closed meanwhile.
      if (target.startsWith(memoryName)) return join(folder, name);
    }
  }
  throw new Error("the machine's memory cannot be found among QEMU's files");
}

/**
 * Copies a saved memory into a new machine's, leaving out what is empty.
 *
 * @param join puts a process into the box's control groups
 */
export async function fillMemory(
  from: string,
  to: string,
  joinGroups: (pid: number) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const copy = ["dd", `if=${from}`, `of=${to}`, "bs=128K", "conv=notrunc,sparse", "status=none"];
  const child = spawn("/bin/sh", ["-c", gate, ...copy], {
    ...{ cwd: "/", env: { PATH: "/usr/bin:/bin" }, stdio: ["ignore", "ignore", "pipe", "pipe"], signal },
  });
  let words = "";
  child.stderr?.on("data", (chunk: Buffer) => (words = (words + chunk.toString()).slice(0, maxWords)));
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once("error", reject).once("close", resolve);
  });
  ended.catch(() => undefined); // Awaited below.
  const start = child.stdio[3] as Writable;
  start.on("error", () => undefined); // The exit tells why.
  try {
    if (child.pid !== undefined) await joinGroups(child.pid);
    start.end("\n");
    const code = await ended;
    if (code !== 0) throw new Error(`the saved memory could not be copied: ${words.trim()}`);
  } finally {
    start.destroy();
    child.kill("SIGKILL");
  }
}
