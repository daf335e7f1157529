import { PlatformError } from "@platform/contract";
import type { z } from "zod";

/** A refusal in the client's own words and status; anything else that is thrown is translated. */
export class ClientProblem extends Error {
  readonly status: number;
  constructor(status: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "ClientProblem";
    this.status = status;
  }
}

export const notSupported = (what: string, instead = "Leave it out.") =>
  new ClientProblem(400, `${what} is not supported here. ${instead}`);

/** Clients of this protocol switch on the status alone, and have no 422. */
export function toClientProblem(error: PlatformError): { status: number; message: string } {
  const status = error.code === "INVALID_ID" ? 404 : error.status === 422 ? 400 : error.status;
  return { status, message: error.message };
}

export function parseBody<T extends z.ZodType>(schema: T, body: unknown): z.output<T> {
  const result = schema.safeParse(body ?? {});
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new ClientProblem(400, `${issue.path.join(".") || "body"}: ${issue.message}`);
}
