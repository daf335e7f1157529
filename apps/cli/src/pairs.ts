import { CliError } from "./failure.ts";

/** Collects `K=V` of a repeated option. */
export function collectPair(text: string, previous: Record<string, string> = {}): Record<string, string> {
  const at = text.indexOf("=");
  if (at < 1)
    throw new CliError(
      "INVALID_PAIR",
      `"${text}" is not of the form NAME=VALUE.`,
      "Write it like PORT=3000.",
    );
  return { ...previous, [text.slice(0, at)]: text.slice(at + 1) };
}

export function parsePort(text: string): number {
  const port = Number(text);
  if (Number.isInteger(port) && port > 0 && port < 65_536) return port;
  throw new CliError("INVALID_PORT", `"${text}" is no port.`, "Give a number from 1 to 65535.");
}

export function parseCount(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count > 0) return count;
  throw new CliError("INVALID_NUMBER", `"${text}" is no count.`, "Give a whole number from 1.");
}
