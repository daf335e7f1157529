import { PlatformError } from "@platform/contract";

/** Far above any real body, far below what the stack of a recursive walk takes. */
const maxDepth = 100;

/**
 * What Postgres answers to text that it cannot store: a null character (22021), in JSON an escaped one
 * (22P05). Half a surrogate pair gives 22P02 as well, but so does a query of ours that compares an id with
 * a word; that is why such text is looked for in the body itself.
 *
 * @see https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
const unstorable: ReadonlySet<string> = new Set(["22021", "22P05"]);

/** Whether the request, not this program, is to blame for an error of Postgres. */
export const isUnstorable = (code: string, body: unknown): boolean =>
  unstorable.has(code) || (code === "22P02" && hasHalfSurrogate(body));

/** Bodies are shallow: `parseJson` refused any other. */
function hasHalfSurrogate(value: unknown): boolean {
  if (typeof value === "string") return !value.isWellFormed();
  if (value === null || typeof value !== "object") return false;
  return Object.entries(value).some(([name, inner]) => !name.isWellFormed() || hasHalfSurrogate(inner));
}

/** @throws PlatformError INVALID_JSON */
export function parseJson(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // The parser's message quotes the text, which may hold secrets.
    throw new PlatformError("INVALID_JSON", "The body is not valid JSON. Send a JSON object, or no body.");
  }
  assertShallow(value);
  return value;
}

/** Level by level: a recursive walk would end where the body wants it to. */
function assertShallow(value: unknown): void {
  let level = [value];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > maxDepth)
      throw new PlatformError(
        "INVALID_JSON",
        `The body is nested deeper than ${maxDepth} levels. Flatten it.`,
      );
    const next: unknown[] = [];
    for (const one of level) {
      if (one === null || typeof one !== "object") continue;
      for (const inner of Object.values(one)) next.push(inner);
    }
    level = next;
  }
}
