import { readFileSync } from "node:fs";
import { join } from "node:path";
import { PlatformError, agentToolRoutes as r } from "@platform/contract";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { guestProblem, liveSandbox, sandboxPath } from "../sandboxes/index.ts";

const script = readFileSync(join(import.meta.dirname, "box-search.mjs"), "utf8");
const timeoutMs = 25_000;
const answerBytes = 32 * 1024 * 1024;

type Answer = Record<string, unknown> & { error?: string; message?: string };

export function searchHandlers(platform: Platform): Handler[] {
  const run = async (
    call: Pick<Call, "caller" | "params" | "signal">,
    request: { path: string; pattern: string },
  ) => {
    const { guest } = await liveSandbox(platform, call.caller, call.params["id"]!);
    const path = sandboxPath(request.path);
    const result = await guest
      .exec('exec node --input-type=module -e "$SEARCH_SCRIPT"', {
        env: { SEARCH_SCRIPT: script },
        stdin: JSON.stringify({ ...request, path }),
        cwd: "/",
        timeoutMs,
        maxOutputBytes: answerBytes,
        signal: call.signal,
      })
      .catch((error: unknown) => {
        throw guestProblem(error, "The search");
      });
    if (result.timedOut)
      throw new PlatformError(
        "VALIDATION_FAILED",
        "The pattern took longer than 25 seconds. Simplify it, or narrow path and include.",
        { errors: { pattern: ["takes too long"] } },
      );
    if (result.exitCode === 127)
      throw new PlatformError(
        "CONFLICT",
        "The sandbox has no node, which searches its files. Use a template that has it.",
      );
    if (result.exitCode !== 0 || result.stdoutTruncated)
      throw new PlatformError("CONFLICT", "The files could not be searched. Narrow path and include.", {
        details: { stderr: result.stderr.slice(-500) },
      });
    const answer = JSON.parse(result.stdout) as Answer;
    if (answer.error === "PATTERN")
      throw new PlatformError("VALIDATION_FAILED", "The pattern is no regular expression.", {
        errors: { pattern: [answer.message ?? "is no regular expression"] },
      });
    if (answer.error === "NOT_FOUND")
      throw new PlatformError("FILE_NOT_FOUND", `${path} does not exist in the sandbox.`);
    if (answer.error === "COUNT_MISMATCH")
      throw new PlatformError(
        "COUNT_MISMATCH",
        `The pattern occurs ${String(answer["count"])} times, not as often as expected. Nothing was changed.`,
        { details: { count: answer["count"], files: answer["files"] } },
      );
    if (answer.error)
      throw new PlatformError(
        "CONFLICT",
        `The files could not be changed: ${answer.message ?? "no reason was given"}`,
      );
    return answer;
  };
  return [
    handler(r.search, async (call) => run(call, { operation: "search", ...call.body } as never)),
    handler(r.replace, async (call) => run(call, { operation: "replace", ...call.body } as never)),
  ];
}
