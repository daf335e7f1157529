import { parse, stringify } from "yaml";
import type { OwnPlatform } from "../own-platform.ts";

interface JsonOperation {
  readonly op: "add" | "remove" | "replace";
  readonly path: string;
  readonly value?: unknown;
}

/** As the pages of the problems describe it. */
type Patch =
  | { type: "json-patch"; file: string; operations: JsonOperation[] }
  | { type: "request"; operations: JsonOperation[]; needs_value?: boolean }
  | { type: "edit"; file: string; line?: number; find: string; replace: string }
  | { type: "append"; file: string; text: string }
  | { type: "write"; file: string; content: string }
  | { type: "remove"; file: string };

/** RFC 6902's add, remove and replace on objects. */
function applied(document: Record<string, unknown>, operation: JsonOperation): void {
  const parts = operation.path
    .split("/")
    .slice(1)
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  const last = parts.pop()!;
  let parent = document;
  for (const part of parts) parent = (parent[part] ??= {}) as Record<string, unknown>;
  if (operation.op === "remove") delete parent[last];
  else parent[last] = operation.value;
}

/**
 * Repairs an app by the `details.patch` of a refusal, and by nothing else of it.
 *
 * @returns the request to publish with next, `null` when the refusal holds no patch
 */
export async function repair(
  platform: OwnPlatform,
  sandboxId: string,
  request: Record<string, unknown>,
  body: Record<string, unknown>,
): Promise<Record<string, unknown> | null> {
  const { patch } = (body["error"] as { details: { patch?: Patch[] } }).details;
  if (!patch || patch.length === 0) return null;
  const next = structuredClone(request);
  const read = async (file: string) => platform.exec(sandboxId, `cat '${file}' 2>/dev/null || true`);
  const write = (file: string, text: string) =>
    platform.must("POST", `/sandboxes/${sandboxId}/files`, {
      path: file,
      content: Buffer.from(text).toString("base64"),
    });
  for (const step of patch) {
    switch (step.type) {
      case "request":
        for (const operation of step.operations)
          applied(
            next,
            step.needs_value ? { ...operation, value: "a value that the caller knows" } : operation,
          );
        break;
      case "json-patch": {
        const isJson = step.file.endsWith(".json");
        const text = await read(step.file);
        const document = ((isJson ? JSON.parse(text || "{}") : parse(text)) ?? {}) as Record<string, unknown>;
        for (const operation of step.operations) applied(document, operation);
        await write(step.file, isJson ? JSON.stringify(document, null, 2) : stringify(document));
        break;
      }
      case "edit": {
        const lines = (await read(step.file)).split("\n");
        const mended = lines.map((line, index) =>
          step.line === undefined || step.line === index + 1
            ? line.replaceAll(step.find, step.replace)
            : line,
        );
        await write(step.file, mended.join("\n"));
        break;
      }
      case "append":
        await write(step.file, `${await read(step.file)}${step.text}`);
        break;
      case "write":
        await write(step.file, step.content);
        break;
      case "remove":
        await platform.exec(sandboxId, `rm -rf -- '${step.file}'`);
    }
  }
  return next;
}
