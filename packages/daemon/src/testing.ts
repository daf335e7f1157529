import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";

/** Names in the first column of the table below a heading of a page in docs/. */
export function namesInTable(page: string, heading: string): string[] {
  const text = readFileSync(join(import.meta.dirname, "../../../docs", page), "utf8");
  const section = text.split(/^## /m).find((part) => part.startsWith(`${heading}\n`)) ?? "";
  const rows = section.split("\n").filter((line) => line.startsWith("| "));
  return rows.slice(2).map((line) => line.split(" | ")[0]!.slice(2).replaceAll("\\|", "|"));
}

/** What one tenant tries on another. */
export interface Attempt<Context> {
  readonly name: string;
  /** How it must fail; left out where an answer is no harm, as long as nothing of the other is in it. */
  readonly refused?: RegExp;
  readonly run: (context: Context) => Promise<unknown>;
}

/**
 * Makes each attempt and sees it fail.
 *
 * @param secrets texts of the other tenant and of the machine that no answer may hold, nor a refusal
 * @param names what an attempt may have to name, and is refused by that name; no answer may hold it
 */
export async function assertAllFail<Context>(
  attempts: readonly Attempt<Context>[],
  context: Context,
  secrets: readonly string[],
  names: readonly string[],
): Promise<void> {
  const succeeded: string[] = [];
  for (const { name, refused, run } of attempts) {
    const { answer, failure } = await run(context).then(
      (answer) => ({ answer, failure: null }),
      (failure: Error & { code?: unknown; errno?: unknown }) => ({ answer: null, failure }),
    );
    const said = failure ? `${failure.name} ${String(failure.code)} ${failure.message}` : "";
    const text = JSON.stringify(answer ?? null);
    const leak =
      secrets.find((part) => text.includes(part) || said.includes(part)) ??
      names.find((part) => text.includes(part));
    if (leak !== undefined) succeeded.push(`${name}: told ${leak}`);
    else if (refused && !failure) succeeded.push(`${name}: answered ${text.slice(0, 200)}`);
    else if (refused && !refused.test(said)) succeeded.push(`${name}: failed otherwise: ${said}`);
    else if (!refused && failure) succeeded.push(`${name}: was refused, which its row does not say: ${said}`);
  }
  assert.deepEqual(succeeded, []);
}
