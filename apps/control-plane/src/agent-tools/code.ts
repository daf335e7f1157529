import { agentToolRoutes as r, notFound } from "@platform/contract";
import { GuestError, type CodeContext, type CodeEvent } from "@platform/guest-protocol";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { guestProblem, liveSandbox } from "../sandboxes/index.ts";

/** Most characters of each output, and of all results as JSON, that an answer holds. */
const mostText = 4 * 1024 * 1024;
const mostResults = 12 * 1024 * 1024;

/** Gathers what a cell says, up to a size. */
class Heard {
  readonly text = { stdout: "", stderr: "" };
  readonly results: Record<string, unknown>[] = [];
  error: { name: string; value: string; traceback: string } | null = null;
  count: number | null = null;
  truncated = false;
  #resultBytes = 0;

  add(event: CodeEvent): void {
    switch (event.type) {
      case "stdout":
      case "stderr": {
        const room = mostText - this.text[event.type].length;
        this.text[event.type] += event.text.slice(0, room);
        this.truncated ||= event.text.length > room;
        return;
      }
      case "result": {
        this.#resultBytes += JSON.stringify(event).length;
        if (this.#resultBytes > mostResults) this.truncated = true;
        else this.results.push(Object.fromEntries(Object.entries(event).filter(([name]) => name !== "type")));
        return;
      }
      case "error":
        this.error = { name: event.name, value: event.value, traceback: event.traceback };
        return;
      case "number_of_executions":
        this.count = event.execution_count;
    }
  }
}

/** TypeScript's cells run in the contexts of JavaScript. */
const homeOf = (language: string) => (language === "typescript" ? "javascript" : language);
const nameOf = ({ id, language }: CodeContext) => {
  const name = id.startsWith(`${language}:`) ? id.slice(language.length + 1) : id;
  return name;
};

export function codeHandlers(platform: Platform): Handler[] {
  const codeOf = async (call: Pick<Call, "caller" | "params">) =>
    (await liveSandbox(platform, call.caller, call.params["id"]!)).guest.code;
  const forgetAll = async (
    call: Pick<Call, "caller" | "params" | "signal">,
    language: string | undefined,
  ) => {
    const code = await codeOf(call);
    const wanted = (await code.contexts(call.signal)).filter(
      (context) => language === undefined || homeOf(context.language) === homeOf(language),
    );
    for (const { id } of wanted) await code.remove(id, call.signal).catch(() => undefined);
    return { removed: wanted.map(nameOf) };
  };
  return [
    handler(r.codeRun, async (call) => {
      const { code: source, language, context, timeout, env } = call.body;
      const code = await codeOf(call);
      const heard = new Heard();
      const late = AbortSignal.timeout(timeout * 1000);
      const startedAt = performance.now();
      try {
        const cell = { code: source, language, context, env_vars: env };
        for await (const event of code.run(cell, AbortSignal.any([late, call.signal]))) heard.add(event);
      } catch (error) {
        if (!late.aborted) throw guestProblem(error, "/workspace");
        const value = `The cell ran longer than ${timeout} s and was interrupted. Give it more time with "timeout".`;
        heard.error = { name: "TimeoutError", value, traceback: value };
      }
      const { text, results, error, truncated, count } = heard;
      const main = results.findLast((result) => result["is_main_result"] === true);
      return {
        ok: error === null,
        stdout: text.stdout,
        // Clients that know outputs and a result alone would not see why it failed.
        stderr: text.stderr + (error ? `${error.traceback.trimEnd()}\n` : ""),
        result: typeof main?.["text"] === "string" ? main["text"] : null,
        ...{ results, error, language, context, truncated, timed_out: late.aborted },
        execution_count: count,
        duration_ms: Math.round(performance.now() - startedAt),
      };
    }),
    handler(r.codeContexts, async (call) => {
      const { language } = call.query;
      const all = await (await codeOf(call as unknown as Call)).contexts(call.signal);
      const wanted = all.filter(
        (context) => language === undefined || homeOf(context.language) === homeOf(language),
      );
      return { contexts: [...new Set(wanted.map(nameOf))] };
    }),
    handler(r.codeForget, async (call) => {
      const name = call.params["context"]!;
      const id = `${homeOf(call.query.language)}:${name}`;
      try {
        await (await codeOf(call as unknown as Call)).remove(id, call.signal);
      } catch (error) {
        if (error instanceof GuestError && error.status === 404) throw notFound(`Context ${name}`);
        throw guestProblem(error, "/workspace");
      }
      return { removed: [name] };
    }),
    handler(r.codeReset, (call) => forgetAll(call as unknown as Call, call.query.language)),
  ];
}
