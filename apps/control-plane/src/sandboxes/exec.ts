import { PlatformError, execRoutes as r, type ExecInput } from "@platform/contract";
import type { z } from "zod";
import { handler, openEventStream, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { guestProblem, liveSandbox } from "./access.ts";
import { lineSplitter } from "./line-splitter.ts";

type Input = z.output<typeof ExecInput>;

const standardTimeoutSec = 30;
const mostTimeoutSec = 86_400;
const outputBytes = 4 * 1024 * 1024;

export function timeoutMsOf(
  input: { timeout?: number | undefined },
  standardSec = standardTimeoutSec,
): number {
  const seconds = input.timeout ?? standardSec;
  if (seconds > mostTimeoutSec) {
    throw new PlatformError(
      "TIMEOUT_TOO_LONG",
      `timeout is ${seconds} s; the most is ${mostTimeoutSec}. For longer work start a service.`,
      { errors: { timeout: [`at most ${mostTimeoutSec}`] } },
    );
  }
  return seconds * 1000;
}

/** Relative folders are below /workspace. */
export const absolute = (path: string | undefined): string =>
  !path ? "/workspace" : path.startsWith("/") ? path : `/workspace/${path}`;

export const isMissingFolder = (error: unknown) =>
  (error as { code?: unknown }).code === 3 || (error as { code?: unknown }).code === 5;

export function execHandlers(platform: Platform): Handler[] {
  const options = (input: Input) => ({
    cwd: absolute(input.cwd ?? input.dir),
    env: input.env ?? {},
    timeoutMs: timeoutMsOf(input),
    maxOutputBytes: outputBytes,
  });
  return [
    handler(r.exec, async ({ caller, params, body, signal }) => {
      const wanted = options(body);
      const { guest, row } = await liveSandbox(platform, caller, params["id"]!);
      const oom = watchOom(platform, row.box_key);
      const result = await guest.exec(body.command, { ...wanted, signal }).catch((error: unknown) => {
        if (isMissingFolder(error)) return notStarted(wanted.cwd);
        throw guestProblem(error, "The command");
      });
      return { ...execResultView(result), ...(result.exitCode === 0 ? {} : await oom()) };
    }),
    handler(r.execStream, async ({ caller, params, body, reply, requestId }) => {
      const wanted = options(body);
      const { guest, row } = await liveSandbox(platform, caller, params["id"]!);
      const oom = watchOom(platform, row.box_key);
      const stream = openEventStream(reply);
      const out = lineSplitter((line) => stream.send("stdout", { line }));
      const err = lineSplitter((line) => stream.send("stderr", { line }));
      try {
        const result = await guest.exec(body.command, {
          ...wanted,
          maxOutputBytes: 0,
          signal: stream.signal,
          onStdout: (text) => out.push(text),
          onStderr: (text) => err.push(text),
        });
        out.end();
        err.end();
        stream.send("exit", {
          exit_code: result.timedOut ? -1 : result.exitCode,
          timed_out: result.timedOut,
          duration_ms: Math.round(result.durationMs),
          ...(result.exitCode === 0 ? {} : await oom()),
        });
      } catch (error) {
        if (isMissingFolder(error)) {
          stream.send("stderr", { line: notStarted(wanted.cwd).stderr });
          stream.send("exit", { exit_code: 127, timed_out: false });
        } else {
          platform.log.warn({ err: error, requestId }, "a streamed command was lost");
          stream.send("exit", {
            exit_code: -2,
            timed_out: false,
            error: {
              code: "SANDBOX_AGENT_UNAVAILABLE",
              message: "The sandbox stopped answering while the command ran.",
              retryable: true,
              request_id: requestId,
            },
          });
        }
      }
      stream.close();
    }),
  ];
}

/**
 * Looks at the kernel's count of kills for want of memory now and again when asked. An exit code of
 * 137 alone proves nothing; a count that rose does, also when a child of the command was killed.
 *
 * @returns nothing to say where the count did not rise or cannot be read
 */
export function watchOom(platform: Platform, boxKey: string) {
  const look = () => platform.host.oom(boxKey).catch(() => null);
  const before = look();
  return async () => {
    const [then, now] = [await before, await look()];
    if (then?.oomKills == null || now?.oomKills == null || now.oomKills <= then.oomKills) return {};
    const { memoryLimitBytes: limit, memoryPeakBytes: peak } = now;
    const kills = now.oomKills - then.oomKills;
    return { oom: { kills, memory_limit_bytes: limit, memory_peak_bytes: peak } };
  };
}

/** A command that cannot start is a result, never an HTTP error. */
export const notStarted = (cwd: string) => ({
  stdout: "",
  stderr: `cannot start in ${cwd}: no such folder`,
  exitCode: 127,
  timedOut: false,
  durationMs: 0,
  stdoutTruncated: false,
  stderrTruncated: false,
});

export const execResultView = (result: ReturnType<typeof notStarted>) => ({
  stdout: result.stdout,
  stderr: result.stderr,
  exit_code: result.timedOut ? -1 : result.exitCode,
  duration_ms: Math.round(result.durationMs),
  timed_out: result.timedOut,
  stdout_truncated: result.stdoutTruncated,
  stderr_truncated: result.stderrTruncated,
});
