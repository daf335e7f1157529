import type { TestContext } from "node:test";
import { guestOf, type TestHost } from "../../../testing.ts";

/** An emulated machine on a busy one: commands take their time. */
const commandTimeoutMs = 300_000;

export const machine = { template: "minimal", minimumIsolation: "microvm-emulated" as const };

export async function run(t: TestContext, host: TestHost, key: string, command: string): Promise<string> {
  const result = await guestOf(t, host, key).exec(command, { timeoutMs: commandTimeoutMs });
  return `${result.stdout}${result.stderr}`.trim();
}

/** Lines that no two machines may share, and the difference of its clock, in milliseconds. */
export async function identity(t: TestContext, host: TestHost, key: string) {
  const asked = Date.now();
  const text = await run(
    t,
    host,
    key,
    "date +%s%3N; cat /proc/sys/kernel/random/uuid; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; perl -e 'print rand, \"\\n\"'; hostname; cat /etc/machine-id",
  );
  const answered = Date.now();
  const [clock = "", ...lines] = text.split("\n");
  const now = Number(clock);
  // Drawn by the agent, which runs on in every copy.
  const { watcherId } = await guestOf(t, host, key).filesystem.createWatcher({ path: "/workspace" });
  lines.push(watcherId);
  const driftMs = now < asked ? asked - now : Math.max(0, now - answered);
  return { driftMs, lines };
}
