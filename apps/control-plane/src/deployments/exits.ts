import type { BoxFailure, BoxNotice } from "@platform/host-api";
import type { ServiceExit } from "@platform/guest-protocol";

/** One end of an app's process, with why. */
export interface Exit {
  readonly at: string;
  /** `oom` only when the kernel counted a process killed for memory. A SIGKILL from elsewhere is `killed`. */
  readonly reason: "exited" | "killed" | "oom";
  readonly exit_code: number | null;
  readonly signal: string | null;
  readonly ran_ms: number;
  readonly oom?: OomEvidence;
}

export interface OomEvidence {
  readonly limit_bytes: number | null;
  readonly peak_bytes: number | null;
  /** Names of the programs that were killed, where the kernel's log can be read. */
  readonly processes: readonly string[];
  readonly kills: number;
  readonly suggestion: string;
}

export interface OomCounter {
  readonly memoryLimitBytes: number | null;
  readonly memoryPeakBytes: number | null;
}

const mib = (bytes: number) => Math.round(bytes / 1024 / 1024);

export function oomEvidence(counter: OomCounter, notices: readonly BoxNotice[], kills: number): OomEvidence {
  const newest = notices.findLast((notice) => notice.type === "oom");
  const processes = (newest?.evidence["processes"] ?? []) as string[];
  const limit = counter.memoryLimitBytes;
  return {
    limit_bytes: limit,
    peak_bytes: counter.memoryPeakBytes,
    processes,
    kills,
    suggestion: `Lower what the app holds in memory at once, or run fewer workers in one instance${limit === null ? "" : `: its limit is ${mib(limit)} MiB`}.`,
  };
}

/** The same of a box that ended as a whole. */
export function oomOfFailure(failure: BoxFailure): OomEvidence | null {
  if (failure.reason !== "oom") return null;
  const number = (name: string) => {
    const value = failure.evidence[name];
    return typeof value === "number" ? value : null;
  };
  const counter = {
    memoryLimitBytes: number("memoryLimitBytes"),
    memoryPeakBytes: number("memoryPeakBytes"),
  };
  return oomEvidence(counter, [], number("oomKills") ?? 1);
}

const mayBeOom = (exit: ServiceExit) => exit.signal === "SIGKILL" || exit.exitCode === 137;

/**
 * Gives each new exit its reason.
 *
 * @param kills processes that the kernel killed for memory and that no exit was put down to yet
 * @returns the exits, oldest first, and the kills that are left
 */
export function explainExits(
  fresh: readonly ServiceExit[],
  kills: number,
  evidence: (kills: number) => OomEvidence,
): { exits: Exit[]; left: number } {
  let left = kills;
  const exits: Exit[] = [];
  for (const exit of [...fresh].reverse()) {
    const isOom = left > 0 && mayBeOom(exit);
    if (isOom) left -= 1;
    exits.unshift({
      at: exit.at,
      reason: isOom ? "oom" : exit.signal === null ? "exited" : "killed",
      exit_code: exit.exitCode,
      signal: exit.signal,
      ran_ms: exit.ranMs,
      ...(isOom ? { oom: evidence(kills) } : {}),
    });
  }
  return { exits, left };
}

/** A run under this time counts as a failed start, milliseconds. */
const shortMs = 60_000;
const windowMs = 10 * 60_000;
export const crashesInLoop = 3;

/** True when the last runs all ended soon after their start, and the one of now has not lasted either. */
export function isCrashLoop(exits: readonly Exit[], now: number, runningSince: number | null): boolean {
  const last = exits.slice(-crashesInLoop);
  if (last.length < crashesInLoop) return false;
  if (runningSince !== null && now - runningSince >= shortMs) return false;
  return last.every((exit) => exit.ran_ms < shortMs && now - Date.parse(exit.at) < windowMs);
}

/** In a sentence, for people. */
export function describeExit(exit: Exit): string {
  if (exit.reason === "oom") {
    const { limit_bytes: limit, processes } = exit.oom!;
    return `${processes[0] ?? "a process"} was killed for memory${limit === null ? "" : ` (limit ${mib(limit)} MiB)`}`;
  }
  return exit.signal === null ? `ended with exit code ${exit.exit_code}` : `was ended by ${exit.signal}`;
}
