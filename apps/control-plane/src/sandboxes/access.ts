import { PlatformError } from "@platform/contract";
import { GuestError, type GuestClient } from "@platform/guest-protocol";
import { transaction } from "@platform/postgres";
import type { Caller } from "../http/index.ts";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";
import { assertWithin, subjectOf } from "../policies/index.ts";
import { loadSandbox, ownSandbox, wantIn, type SandboxRow } from "./store.ts";

/** How long a call holds while a sandbox starts or wakes before the client is told to come again, milliseconds. */
const holdMs = 25_000;

const starting = () =>
  new PlatformError("SANDBOX_STARTING", "The sandbox is still starting. Retry in two seconds.", {
    retryAfterMs: 2000,
  });

/**
 * A sandbox that answers, and its guest. A paused one is woken, one that starts is waited for.
 *
 * @throws PlatformError SANDBOX_STARTING (retryable), SANDBOX_NOT_RUNNING
 */
export async function liveSandbox(
  platform: Platform,
  caller: Caller,
  id: string,
): Promise<{ row: SandboxRow; guest: GuestClient }> {
  const row = await ownSandbox(platform.pool, caller, id);
  const live = await wake(platform, row);
  // Exact to a few seconds is enough for idle time-outs, and keeps each exec from writing.
  if (Date.now() - live.last_used_at.getTime() > 5_000)
    await platform.pool.query("update sandboxes set last_used_at = now() where id = $1", [live.id]);
  return { row: live, guest: guestOf(platform.host, live.box_key) };
}

export async function wake(platform: Platform, row: SandboxRow): Promise<SandboxRow> {
  if (row.state === "running" && row.desired === "running") return row;
  if (row.desired === "destroyed")
    throw new PlatformError("SANDBOX_NOT_RUNNING", "The sandbox is being destroyed. Create a new one.");
  if (row.desired === "paused") {
    await transaction(platform.pool, async (db) => {
      await assertWithin(db, subjectOf(row), { id: row.id, prices: platform.settings.prices });
      await wantIn(db, row.id, {
        desired: "running",
        expires_at: new Date(Date.now() + row.timeout_sec * 1000),
      });
    });
    platform.signals.announce("work:sandboxes");
  }
  const settled = await settledSandbox(
    platform,
    row.id,
    holdMs,
    (now) => now.state === "running" && now.desired === "running",
  );
  if (settled) return settled;
  throw starting();
}

/**
 * Waits until `done` holds.
 *
 * @param timeoutMs most time to wait, milliseconds; then undefined
 * @throws PlatformError SANDBOX_NOT_RUNNING when the sandbox failed or is gone
 */
export async function settledSandbox(
  platform: Platform,
  id: string,
  timeoutMs: number,
  done: (row: SandboxRow) => boolean,
  signal?: AbortSignal,
): Promise<SandboxRow | undefined> {
  return platform.signals.until(
    `sandbox:${id}`,
    timeoutMs,
    async () => {
      const row = await loadSandbox(platform.pool, id);
      if (!row || row.state === "destroyed")
        throw new PlatformError("SANDBOX_NOT_RUNNING", "The sandbox was destroyed. Create a new one.");
      if (done(row)) return row;
      if (row.state === "error" && row.desired !== "destroyed") throw sandboxFailed(row);
      return undefined;
    },
    signal,
  );
}

export function sandboxFailed(row: SandboxRow): PlatformError {
  const reason = row.last_error?.reason ?? "unknown";
  if (reason === "isolation_unavailable")
    return new PlatformError("ISOLATION_UNAVAILABLE", row.last_error!.message, { details: { reason } });
  return new PlatformError(
    "SANDBOX_NOT_RUNNING",
    `The sandbox failed (${reason}): ${row.last_error?.message ?? "no detail"} Create a new one.`,
    {
      details: { state: row.state, reason },
    },
  );
}

/** The sandbox, not the call, is the reason: a look at it is under way, and it comes back or says why not. */
const awayCodes = new Set(["BOX_PAUSED", "BOX_FAILED", "UNREACHABLE", "GUEST_UNAVAILABLE"]);

/** Turns what the guest or its host says into the contract's refusals. `about` names the path or process. */
export function guestProblem(error: unknown, about: string): unknown {
  if (!(error instanceof GuestError)) return connectProblem(error, about);
  if (awayCodes.has(error.code)) {
    return new PlatformError(
      "SANDBOX_AGENT_UNAVAILABLE",
      "The sandbox does not answer now. Retry in two seconds.",
      { retryAfterMs: 2000, cause: error },
    );
  }
  if (error.status === 404)
    return new PlatformError("FILE_NOT_FOUND", `${about} does not exist in the sandbox.`, { cause: error });
  if (error.status === 507)
    return new PlatformError(
      "DISK_FULL",
      "The sandbox's disk is full. Remove files, or create a larger sandbox.",
      { cause: error },
    );
  if (error.status >= 400 && error.status < 500)
    return new PlatformError("INVALID_PATH", `${about}: ${error.message}`, { cause: error });
  return new PlatformError(
    "SANDBOX_FILE_AGENT_UNAVAILABLE",
    `${about}: the sandbox could not do it. Retry.`,
    { retryAfterMs: 1000, cause: error },
  );
}

const connectCodes: Record<
  number,
  "FILE_NOT_FOUND" | "INVALID_PATH" | "DISK_FULL" | "SANDBOX_AGENT_UNAVAILABLE"
> = {
  3: "INVALID_PATH",
  5: "FILE_NOT_FOUND",
  6: "INVALID_PATH",
  7: "INVALID_PATH",
  8: "DISK_FULL",
  9: "INVALID_PATH",
  14: "SANDBOX_AGENT_UNAVAILABLE",
};

function connectProblem(error: unknown, about: string): unknown {
  const { code, rawMessage } = error as { code?: unknown; rawMessage?: string };
  if (typeof code !== "number" || typeof rawMessage !== "string") return error;
  const known = connectCodes[code];
  if (!known) return error;
  return new PlatformError(
    known,
    known === "FILE_NOT_FOUND" ? `${about} does not exist in the sandbox.` : `${about}: ${rawMessage}`,
    { cause: error },
  );
}
