import type { z } from "zod";

/**
 * Parses a program's settings once. The message names each wrong setting, never its value.
 *
 * @throws Error listing every setting that is missing or malformed
 */
export function readConfig<T extends z.ZodType>(
  schema: T,
  environment: NodeJS.ProcessEnv = process.env,
): z.output<T> {
  const result = schema.safeParse(environment);
  if (result.success) return result.data;
  const lines = result.error.issues.map((issue) => `  ${issue.path.join(".")}: ${issue.message}`);
  throw new Error(`Settings are not usable:\n${lines.join("\n")}`);
}
