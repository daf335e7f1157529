import { execFile } from "node:child_process";
import { close, constants, mkdtempSync, openSync, rmSync, unlinkSync } from "node:fs";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Made at a time, because each batch costs a process. */
const BATCH = 16;

export interface Pipe {
  readonly reader: Socket;
  /** Given to the program, then closed here. */
  readonly writerFd: number;
  closeWriter(): void;
}

let folder: string | null = null;
let count = 0;
let made: string[] = [];
let making: Promise<void> | null = null;
let unavailable = false;

/**
 * A real pipe for a program's output. What Node makes for a child is a socket pair, which cannot be
 * opened again by name, so that `echo x > /dev/stderr` fails in every shell script. Node has no call
 * for pipes: named ones are made in stock and unlinked once open.
 *
 * @returns `null` where the system cannot make them; the caller then takes a socket pair
 */
export async function openPipe(): Promise<Pipe | null> {
  while (made.length === 0 && !unavailable) await (making ??= makeBatch());
  const path = made.pop();
  if (path === undefined) return null;
  const fds: number[] = [];
  try {
    // Reading first and without blocking: otherwise each side would wait for the other.
    fds.push(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
    fds.push(openSync(path, constants.O_WRONLY));
    unlinkSync(path);
  } catch {
    // The stock was removed by a program in the box, to which /tmp belongs as well.
    for (const fd of fds) close(fd);
    made = [];
    folder = null;
    return null;
  }
  const [readerFd = -1, writerFd = -1] = fds;
  const reader = new Socket({ fd: readerFd, readable: true, writable: false });
  return { reader, writerFd, closeWriter: () => close(writerFd) };
}

async function makeBatch(): Promise<void> {
  try {
    folder ??= makeFolder();
    const parent = folder;
    const paths = Array.from({ length: BATCH }, () => join(parent, String((count += 1))));
    await new Promise<void>((resolve, reject) => {
      const env = { PATH: "/usr/local/bin:/usr/bin:/bin" };
      execFile("mkfifo", ["-m", "600", ...paths], { env }, (error) => (error ? reject(error) : resolve()));
    });
    made.push(...paths);
  } catch {
    // No mkfifo or no writable /tmp in this template: socket pairs serve all but /dev/stderr.
    unavailable = true;
  } finally {
    making = null;
  }
}

function makeFolder(): string {
  const made = mkdtempSync(join(tmpdir(), ".pipes-"));
  process.once("exit", () => rmSync(made, { recursive: true, force: true }));
  return made;
}
