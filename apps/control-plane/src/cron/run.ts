import { PlatformError } from "@platform/contract";
import type { ExecResult, GuestClient } from "@platform/guest-protocol";
import { loadDeployment, servingInstance } from "../deployments/index.ts";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";
import { loadSandbox, wake } from "../sandboxes/index.ts";
import { deploymentHostname, tenantById } from "../tenants/index.ts";
import { requestThroughEdge, type HttpCall } from "./http-call.ts";
import type { CronJobRow, ExecutionRow } from "./store.ts";

const outputBytes = 64 * 1024;
/** A sandbox may take this long to wake, milliseconds. */
const wakeMs = 120_000;

export interface Outcome {
  readonly state: "succeeded" | "failed";
  readonly reason: string | null;
  readonly error: string | null;
  readonly exitCode: number | null;
  readonly output: string;
  readonly truncated: boolean;
}

const failed = (reason: string, error: string): Outcome => ({
  state: "failed",
  reason,
  error,
  exitCode: null,
  output: "",
  truncated: false,
});

/** The last bytes of what comes in. */
export class Tail {
  #text = "";
  isTruncated = false;

  add(text: string): void {
    this.#text += text;
    // Cut seldom: only when twice as much as wanted has gathered.
    if (this.#text.length > outputBytes * 2) this.#cut();
  }

  #cut(): void {
    const bytes = Buffer.from(this.#text);
    if (bytes.length <= outputBytes) return;
    this.isTruncated = true;
    // A character cut in half at the front would become U+FFFD.
    let from = bytes.length - outputBytes;
    while (from < bytes.length && (bytes[from]! & 0xc0) === 0x80) from++;
    this.#text = bytes.subarray(from).toString();
  }

  end(): string {
    this.#cut();
    // The column holds no null character.
    return this.#text.replaceAll("\0", "\uFFFD");
  }
}

type Found =
  { readonly guest: GuestClient; readonly boxKey: string; readonly releaseId: string | null } | Outcome;

/** The release that is live now: a rollback moves the job with it. */
async function findTarget(platform: Platform, job: CronJobRow, signal: AbortSignal): Promise<Found> {
  if (job.target_type === "sandbox") return wakeSandbox(platform, job, signal);
  const deployment = await loadDeployment(platform.pool, job.target_id);
  if (!deployment || deployment.desired === "deleted")
    return failed(
      "target_gone",
      "The deployment was deleted. Delete this cron job, or point a new one elsewhere.",
    );
  const instance = await servingInstance(platform, deployment);
  if (!instance)
    return failed(
      "not_serving",
      `The deployment is ${deployment.state} and has no running instance. Promote a release with a server, then run again.`,
    );
  return {
    guest: guestOf(platform.host, instance.box_key),
    boxKey: instance.box_key,
    releaseId: instance.release_id,
  };
}

async function wakeSandbox(platform: Platform, job: CronJobRow, signal: AbortSignal): Promise<Found> {
  const endsAt = performance.now() + wakeMs;
  for (;;) {
    const row = await loadSandbox(platform.pool, job.target_id);
    if (!row || row.state === "destroyed" || row.desired === "destroyed")
      return failed(
        "target_gone",
        "The sandbox was destroyed. Delete this cron job, or point a new one elsewhere.",
      );
    try {
      const live = await wake(platform, row);
      await platform.pool.query("update sandboxes set last_used_at = now() where id = $1", [live.id]);
      return { guest: guestOf(platform.host, live.box_key), boxKey: live.box_key, releaseId: null };
    } catch (error) {
      if (!(error instanceof PlatformError)) throw error;
      const mayCome = error.code === "SANDBOX_STARTING" && performance.now() < endsAt && !signal.aborted;
      if (!mayCome) return failed(error.code.toLowerCase(), error.message);
    }
  }
}

const noteRelease = (platform: Platform, execution: ExecutionRow, releaseId: string | null) =>
  platform.pool.query("update cron_executions set release_id = $2 where id = $1", [execution.id, releaseId]);

/** A request by the deployment's public name, so that it reaches what visitors reach and wakes what sleeps. */
async function callApp(
  platform: Platform,
  job: CronJobRow,
  execution: ExecutionRow,
  signal: AbortSignal,
): Promise<Outcome> {
  const deployment = await loadDeployment(platform.pool, job.target_id);
  if (!deployment || deployment.desired === "deleted")
    return failed("target_gone", "The deployment was deleted. Delete this cron job.");
  const tenant = await tenantById(platform.pool, job.tenant_id);
  if (!tenant) return failed("target_gone", "The tenant is gone.");
  await noteRelease(platform, execution, deployment.active_release_id);
  const call = JSON.parse(platform.seal.open(job.http_sealed!)) as HttpCall;
  const answer = await requestThroughEdge(
    platform.settings,
    deploymentHostname(tenant, deployment.slug),
    call,
    {
      executionId: execution.id,
      timeoutMs: job.timeout_sec * 1000,
      signal,
    },
  );
  if (answer.failure === "timeout")
    return failed(
      "timeout",
      `The app did not answer within ${job.timeout_sec} s. Raise timeout_sec, or answer sooner.`,
    );
  if (answer.failure !== null)
    return failed("unreachable", "The app's address did not answer. Is it deployed?");
  const output = { output: answer.body, truncated: answer.isTruncated, exitCode: answer.status };
  if (!answer.isFromApp)
    return {
      ...output,
      ...{ state: "failed", reason: "not_serving" },
      error: `No instance of the deployment answered (${answer.status}). Promote a release with a server, then run again.`,
    };
  if (answer.status < 400) return { ...output, state: "succeeded", reason: null, error: null };
  return {
    ...output,
    ...{ state: "failed", reason: "http_status" },
    error: `The app answered ${answer.status}. The beginning of its answer is in output.`,
  };
}

const oomKills = async (platform: Platform, boxKey: string, signal: AbortSignal) =>
  (await platform.host.stats(boxKey, signal).catch(() => null))?.oomKills ?? null;

/** Runs the command where the job points. Every failure is an outcome; it throws only for bugs. */
export async function runJob(
  platform: Platform,
  job: CronJobRow,
  execution: ExecutionRow,
  signal: AbortSignal,
): Promise<Outcome> {
  if (job.http_sealed !== null) return callApp(platform, job, execution, signal);
  const found = await findTarget(platform, job, signal);
  if ("state" in found) return found;
  await noteRelease(platform, execution, found.releaseId);
  const env = JSON.parse(platform.seal.open(job.env_sealed)) as Record<string, string>;
  const tail = new Tail();
  const before = await oomKills(platform, found.boxKey, signal);
  let result: ExecResult;
  try {
    result = await found.guest.exec(job.command, {
      cwd: "/workspace",
      env: { ...env, EXECUTION_ID: execution.id },
      timeoutMs: job.timeout_sec * 1000,
      maxOutputBytes: 0,
      onStdout: (text) => tail.add(text),
      onStderr: (text) => tail.add(text),
      signal,
    });
  } catch (error) {
    if (signal.aborted) throw error;
    platform.log.warn({ err: error, execution: execution.id }, "a cron run lost its box");
    return {
      ...failed(
        "unreachable",
        `The ${job.target_type} stopped answering while the command ran. The next occurrence runs.`,
      ),
      output: tail.end(),
      truncated: tail.isTruncated,
    };
  }
  const after = await oomKills(platform, found.boxKey, signal);
  const wasKilled = before !== null && after !== null && after > before;
  const output = tail.end();
  return { ...verdict(job, result, wasKilled), output, truncated: tail.isTruncated };
}

function verdict(job: CronJobRow, result: ExecResult, wasKilled: boolean) {
  const { exitCode, timedOut } = result;
  if (timedOut)
    return {
      state: "failed",
      reason: "timeout",
      exitCode: -1,
      error: `The command ran longer than ${job.timeout_sec} s and was ended. Raise timeout_sec, or do less in one run.`,
    } as const;
  if (exitCode === 0) return { state: "succeeded", reason: null, exitCode, error: null } as const;
  if (wasKilled)
    return {
      state: "failed",
      reason: "oom",
      exitCode,
      error: `The ${job.target_type} ran out of memory while the command ran. Use less, or a larger size.`,
    } as const;
  return {
    state: "failed",
    reason: exitCode === -1 ? "signal" : "exit_code",
    exitCode,
    error:
      exitCode === -1
        ? "A signal ended the command."
        : `The command ended with ${exitCode}. Its last lines are in output.`,
  } as const;
}
