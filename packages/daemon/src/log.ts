import { pino } from "pino";

/** Structured log, one JSON object a line, on stderr: stdout belongs to the program's answer. */
export type Log = pino.Logger;

const secretPaths = ["password", "token", "secret", "authorization", "env", "url", "key"].flatMap((name) => [
  name,
  `*.${name}`,
]);

/**
 * @param program name that each line carries, such as `edge`
 * @param level pino level; tests use `silent`
 */
export function createLog(program: string, level: string = "info"): Log {
  return pino(
    { name: program, level, redact: { paths: secretPaths, censor: "[redacted]" } },
    pino.destination({ dest: 2, sync: true }),
  );
}
