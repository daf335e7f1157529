import type { GuestClient, SelfTest } from "@platform/guest-protocol";
import type { OomReport } from "@platform/host-api";
import { readinessComponents, type SandboxRow } from "./store.ts";

export type Components = Record<
  (typeof readinessComponents)[number],
  { status: "ready" | "failed"; detail?: string }
>;

const timeoutMs = 10_000;
const mostDriftMs = 1_000;

/**
 * Looks at each of the eight components by itself, with a command that runs in the box: what is reported
 * ready was seen to work. All in one exchange with the box, which a claim from the pool would otherwise
 * spend most of its time on.
 */
export async function checkReadiness(
  guest: GuestClient,
  row: SandboxRow,
  readMemory: () => Promise<Pick<OomReport, "memoryLimitBytes"> | null>,
): Promise<Components> {
  const before = Date.now();
  const [seen, memory] = await Promise.all([guest.selfTest(AbortSignal.timeout(timeoutMs)), readMemory()]);
  const after = Date.now();
  const drift = Math.max(0, before - seen.clockMs, seen.clockMs - after);
  const limit = memory?.memoryLimitBytes ?? null;
  const wanted = row.memory_mb * 1024 * 1024;
  return {
    command_agent: result(seen.exitCode === 0, `a command ended with ${seen.exitCode}: ${seen.detail}`),
    process_control: result(typeof seen.services === "number", "the list of services was not answered"),
    // A machine without the controller says so in isolation.missing; a wrong limit is a failure.
    resource_contract: result(
      limit === null || limit === wanted,
      `memory limit is ${limit}, wanted ${wanted}`,
    ),
    clock: result(drift <= mostDriftMs, `clock differs by ${drift} ms`),
    identity: result(seen.uid === 1000 && seen.home === "/home/user", "runs as an unexpected user"),
    durability: result(seen.durable, `a file could not be written, synced and read back: ${seen.detail}`),
    filesystem: result(seen.listed, `/workspace cannot be listed: ${seen.detail}`),
    internal_probe: result(isAnswer(seen), "the agent does not answer"),
  };
}

const result = (ok: boolean, detail: string) =>
  ok ? { status: "ready" as const } : { status: "failed" as const, detail };

const isAnswer = (seen: SelfTest) => Number.isFinite(seen.clockMs);

export const isReady = (components: Components): boolean =>
  Object.values(components).every((component) => component.status === "ready");
