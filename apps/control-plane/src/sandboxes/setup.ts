import type { GuestClient } from "@platform/guest-protocol";
import type { Platform } from "../platform.ts";
import type { SandboxRow } from "./store.ts";

const setupTimeoutMs = 15 * 60_000;
const quote = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

/** Clones the repository and runs the setup script that the create call named, once; the outcome is recorded, not thrown. */
export async function runSetup(
  platform: Platform,
  row: SandboxRow,
  guest: GuestClient,
  signal: AbortSignal,
): Promise<void> {
  const setup = row.setup!;
  const store = (status: string, error: string | null) =>
    platform.pool.query("update sandboxes set setup = setup || $2::jsonb where id = $1", [
      row.id,
      { status, error },
    ]);
  await store("running", null);
  const commands: string[] = [];
  if (setup.clone) {
    const branch = setup.clone.branch ? `--branch ${quote(setup.clone.branch)}` : "";
    commands.push(
      `git clone --depth 1 ${branch} -- ${quote(setup.clone.url)} ${quote(setup.clone.path ?? "/workspace")}`,
    );
  }
  if (setup.script) commands.push(setup.script);
  for (const command of commands) {
    const result = await guest.exec(command, { timeoutMs: setupTimeoutMs, cwd: "/workspace", signal });
    if (result.exitCode !== 0) {
      await store(
        "failed",
        `${result.timedOut ? "timed out" : `ended with ${result.exitCode}`}: ${(result.stderr || result.stdout).slice(-2000)}`,
      );
      return;
    }
  }
  await store("done", null);
}
