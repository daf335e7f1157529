import { ApiError, ConnectionError } from "@platform/sdk";
import { brand } from "./brand.ts";

export const exitCodes = { ok: 0, user: 1, network: 2, auth: 3, server: 4 } as const;
export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

/** A failure that the user can act on. */
export class CliError extends Error {
  readonly code: string;
  /** The next step, as one sentence or command. */
  readonly remedy: string;
  readonly exitCode: ExitCode;
  constructor(
    code: string,
    message: string,
    remedy: string,
    exitCode: ExitCode = exitCodes.user,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = "CliError";
    this.code = code;
    this.remedy = remedy;
    this.exitCode = exitCode;
  }
}

/** What is printed about a failure: code, what, why, what to do, request id. */
export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly why: string[];
  readonly remedy: string;
  readonly requestId: string | null;
  readonly exitCode: ExitCode;
}

export function toFailure(error: unknown): Failure {
  if (error instanceof ApiError) return fromApi(error);
  if (error instanceof ConnectionError) {
    const remedy = `Check that the endpoint is right and running: ${brand.command} doctor`;
    return {
      code: error.code,
      message: error.message,
      why: causes(error),
      remedy,
      requestId: null,
      exitCode: 2,
    };
  }
  if (error instanceof CliError) {
    const { code, message, remedy, exitCode } = error;
    return { code, message, why: causes(error), remedy, requestId: null, exitCode };
  }
  const message = error instanceof Error ? error.message : String(error);
  const remedy = "This is a fault of the program. Run it again with --debug and report what it prints.";
  return { code: "UNEXPECTED", message, why: causes(error), remedy, requestId: null, exitCode: 1 };
}

function fromApi(error: ApiError): Failure {
  const why = [
    ...Object.entries(error.fields).map(([name, messages]) => `${name}: ${messages.join(", ")}`),
    ...Object.entries(error.details).map(([name, value]) => `${name}: ${asText(value)}`),
  ];
  const { code, message, requestId } = error;
  return { code, message, why, remedy: apiRemedy(error), requestId, exitCode: apiExitCode(error.status) };
}

function apiExitCode(status: number): ExitCode {
  if (status === 401 || status === 403) return exitCodes.auth;
  return status >= 500 ? exitCodes.server : exitCodes.user;
}

function apiRemedy(error: ApiError): string {
  if (error.code === "INVALID_ID") return "List what there is (… ls) and use an id from there.";
  if (error.code === "ENGINE_UNAVAILABLE") return "Use --engine postgresql.";
  if (error.status === 401) return `Log in with a valid key: ${brand.command} login`;
  if (error.status === 403) return "Use a key with the scope named above.";
  if (error.status === 404) return "List what there is (… ls) and use an id from there.";
  if (error.status === 422) return "Correct the values named above and run the command again.";
  if (error.code === "DISK_FULL")
    return "Remove files that are not needed, or create a sandbox with a larger disk (--size, or disk_size_mb) and copy what is needed.";
  if (error.retryable || error.status === 429 || error.status >= 500) {
    const where = brand.supportUrl ? ` at ${brand.supportUrl}` : "";
    return `Try again in a moment; if it stays, report it${where} with the request id.`;
  }
  return "Follow the message above and run the command again.";
}

const asText = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

function causes(error: unknown): string[] {
  const found: string[] = [];
  let cause = error instanceof Error ? error.cause : undefined;
  while (cause instanceof Error && found.length < 4) {
    if (cause.message) found.push(cause.message);
    cause = cause.cause;
  }
  return found;
}
