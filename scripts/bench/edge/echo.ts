import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { WebSocket } from "ws";
import type { Measured } from "./wrk.ts";

/**
 * WebSockets that each send a word and wait for it to come back, again and again.
 *
 * @param seconds how long to count
 */
export async function echoes(
  port: number,
  host: string,
  { seconds, connections }: { seconds: number; connections: number },
): Promise<Measured> {
  const took: number[] = [];
  let failed = 0;
  let isOver = false;
  const sockets = await Promise.all(
    Array.from(
      { length: connections },
      () =>
        new Promise<WebSocket>((resolve, reject) => {
          const socket = new WebSocket(`ws://127.0.0.1:${port}/echo`, { headers: { host } });
          socket.once("open", () => resolve(socket)).once("error", reject);
        }),
    ),
  );
  for (const socket of sockets) {
    let sentAt = performance.now();
    const send = () => {
      sentAt = performance.now();
      socket.send("a word that comes back");
    };
    socket.on("message", () => {
      took.push(performance.now() - sentAt);
      if (!isOver) send();
    });
    socket.on("close", () => (failed += isOver ? 0 : 1)).on("error", () => undefined);
    send();
  }
  await delay(seconds * 1_000);
  isOver = true;
  for (const socket of sockets) socket.terminate();
  const sorted = took.toSorted((a, b) => a - b);
  const at = (part: number) => sorted[Math.floor(sorted.length * part)] ?? Number.NaN;
  return { perSecond: took.length / seconds, p50Ms: at(0.5), p99Ms: at(0.99), failed };
}

/** The app that they are sent to, in a process of its own. */
export async function startEcho(): Promise<{ port: number; stop(): Promise<void> }> {
  const child = spawn(process.execPath, [join(import.meta.dirname, "echo-server.ts")], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  const stop = async () => {
    child.stdin.end();
    await once(child, "exit");
  };
  return { port: Number(String(line)), stop };
}
