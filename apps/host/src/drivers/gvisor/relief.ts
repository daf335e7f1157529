import { request } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import { z } from "zod";
import type { Cgroups } from "../linux/cgroups.ts";
import { dialSocket } from "../linux/socket.ts";

const mib = 1024 * 1024;
/** Lent in each round, so that agent and kernel of the box can move at all. */
const stepBytes = 64 * mib;
const mostRounds = 4;
/** Most time from one loan to the next. */
const roundMs = 2_000;
const lateMs = 10_000;
const lookEveryMs = 25;
const maxAnswerBytes = 4096;

const Ended = z.object({ pid: z.int(), name: z.string(), residentBytes: z.number() }).nullable();

/**
 * A box at its limit stands still in place of being killed. It is lent a little memory for a moment, in which
 * its own agent ends the program that holds the most; then the limit is as before. Where that brings no relief,
 * the machine's kernel may kill again, which ends the box.
 *
 * @returns how many programs were ended
 */
export async function relieve(
  cgroups: Cgroups,
  key: string,
  box: { readonly guestSocket: string; readonly memoryBytes: number },
): Promise<number> {
  let ended = 0;
  for (let round = 1; round <= mostRounds; round++) {
    await cgroups.limitMemory(key, box.memoryBytes + round * stepBytes);
    const signal = AbortSignal.timeout(roundMs);
    const one = await askAgent(box.guestSocket, signal).catch(() => null); // Still stuck: it is lent more.
    if (one) ended++;
    if (one && (await fitsAgain(cgroups, key, box.memoryBytes, signal))) {
      await cgroups.limitMemory(key, box.memoryBytes);
      return ended;
    }
  }
  await cgroups.holdAtLimit(key, false);
  // The agent may have heard the last call after all, too late for its answer.
  if (await fitsAgain(cgroups, key, box.memoryBytes, AbortSignal.timeout(lateMs))) {
    await cgroups.limitMemory(key, box.memoryBytes);
    await cgroups.holdAtLimit(key, true);
    return Math.max(1, ended);
  }
  return ended;
}

/** @returns whether the box takes less than its limit again before `signal` aborts */
async function fitsAgain(
  cgroups: Cgroups,
  key: string,
  memoryBytes: number,
  signal: AbortSignal,
): Promise<boolean> {
  while (!signal.aborted) {
    const { memoryBytes: used } = await cgroups.stats(key);
    if (used !== null && used < memoryBytes) return true;
    await delay(lookEveryMs);
  }
  return false;
}

async function askAgent(path: string, signal: AbortSignal): Promise<z.output<typeof Ended>> {
  const socket = await dialSocket(path);
  try {
    const text = await new Promise<string>((resolve, reject) => {
      const call = request({ createConnection: () => socket, method: "POST", path: "/relieve", signal });
      call.once("error", reject);
      call.once("response", (response) => {
        let said = "";
        response.setEncoding("utf8").on("data", (chunk: string) => {
          if (said.length < maxAnswerBytes) said += chunk;
        });
        response.once("error", reject).once("end", () => resolve(said));
      });
      call.end();
    });
    return Ended.parse(JSON.parse(text));
  } finally {
    socket.destroy();
  }
}
