import type { GuestClient } from "@platform/guest-protocol";
import type { BoxStats } from "@platform/host-api";
import { readinessComponents, type SandboxRow } from "./store.ts";

export type Components = Record<
  (typeof readinessComponents)[number],
  { status: "ready" | "failed"; detail?: string }
>;

const script = `set -e
echo "id=$(id -u)"
echo "home=$HOME"
echo "now=$(date +%s%3N)"
f=/workspace/.readiness-$$
printf probe > "$f"
sync "$f"
[ "$(cat "$f")" = probe ] && echo durable=yes
rm -f "$f"
ls -d /workspace > /dev/null && echo files=yes
`;

/**
 * Looks at each of the eight components by itself, with a command that runs in the box: what is
 * reported ready was seen to work.
 */
export async function checkReadiness(
  guest: GuestClient,
  row: SandboxRow,
  stats: BoxStats | null,
): Promise<Components> {
  const before = Date.now();
  const run = await guest.exec(script, { timeoutMs: 10_000, cwd: "/" });
  const after = Date.now();
  const lines = new Map(run.stdout.split("\n").map((line) => line.split("=", 2) as [string, string]));
  const services = await guest.services.list().then(
    () => true,
    () => false,
  );
  const answer = await guest.ready().catch(() => null);
  const clock = Number(lines.get("now"));
  const drift = clock < before ? before - clock : clock > after ? clock - after : 0;
  const limit = stats?.memoryLimitBytes ?? null;
  const wanted = row.memory_mb * 1024 * 1024;
  const result = (ok: boolean, detail: string) =>
    ok ? { status: "ready" as const } : { status: "failed" as const, detail };
  return {
    command_agent: result(
      run.exitCode === 0,
      `a command ended with ${run.exitCode}: ${run.stderr.slice(0, 300)}`,
    ),
    process_control: result(services, "the list of services was not answered"),
    // A machine without the controller says so in isolation.missing; a wrong limit is a failure.
    resource_contract: result(
      limit === null || limit === wanted,
      `memory limit is ${limit}, wanted ${wanted}`,
    ),
    clock: result(drift <= 1000, `clock differs by ${drift} ms`),
    identity: result(
      lines.get("id") === "1000" && lines.get("home") === "/home/user",
      "runs as an unexpected user",
    ),
    durability: result(lines.get("durable") === "yes", "a file could not be written, synced and read back"),
    filesystem: result(lines.get("files") === "yes", "/workspace cannot be listed"),
    internal_probe: result(answer?.ok === true, "the agent does not answer"),
  };
}

export const isReady = (components: Components): boolean =>
  Object.values(components).every((component) => component.status === "ready");
