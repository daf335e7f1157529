import type { IncomingMessage, ServerResponse } from "node:http";

/** Of HTTP/1.1; Node's HTTP/2 compatibility API has the same surface as far as it is used here. */
export type Request = IncomingMessage;
export type Response = ServerResponse;

/** An expected failure of our own endpoints, rendered as `{error: {code, message, details}}`. */
export class AgentError extends Error {
  readonly code: string;
  readonly status: number;
  readonly details: Record<string, unknown>;
  constructor(code: string, status: number, message: string, details: Record<string, unknown> = {}) {
    super(message);
    this.name = "AgentError";
    this.code = code;
    this.status = status;
    this.details = details;
  }
}

/** An expected failure of an envd endpoint, rendered as `{code, message}`. */
export class EnvdError extends Error {
  readonly status: number;
  constructor(status: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "EnvdError";
    this.status = status;
  }
}

export function answerJson(response: Response, status: number, body: unknown): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    "content-type": "application/json; charset=utf-8",
    "content-length": Buffer.byteLength(text),
  });
  response.end(text);
}

export function answerEmpty(response: Response, status = 204): void {
  response.writeHead(status);
  response.end();
}

/** Turns what a handler threw into an answer; a failure after the headers cuts the connection. */
export function answerError(response: Response, error: unknown): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  if (error instanceof AgentError) {
    const { code, message, details } = error;
    answerJson(response, error.status, { error: { code, message, details } });
  } else if (error instanceof EnvdError) {
    answerJson(response, error.status, { code: error.status, message: error.message });
  } else {
    process.stderr.write(`request failed: ${error instanceof Error ? error.stack : String(error)}\n`);
    const message = "The agent failed; its log in the box has the cause.";
    answerJson(response, 500, { error: { code: "INTERNAL", message, details: {} } });
  }
}

/** @throws AgentError 413 past `maxBytes` */
export async function readBody(request: Request, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request) {
    size += (chunk as Buffer).length;
    if (size > maxBytes) {
      throw new AgentError("TOO_LARGE", 413, `The body is over the limit of ${maxBytes} bytes.`);
    }
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks);
}

/** @throws AgentError 400 when the body is not a JSON object */
export async function readJsonObject(request: Request): Promise<Record<string, unknown>> {
  const text = (await readBody(request, 4 * 1024 * 1024)).toString("utf8");
  if (text.trim() === "") return {};
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new AgentError("INVALID", 400, "The body is not JSON.");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new AgentError("INVALID", 400, "The body has to be a JSON object.");
  }
  return value as Record<string, unknown>;
}

/** @throws AgentError 400 unless every value is a string */
export function stringMap(value: unknown, name: string): Record<string, string> {
  const isMap =
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((entry) => typeof entry === "string");
  if (!isMap) throw new AgentError("INVALID", 400, `"${name}" has to be an object of strings.`);
  return value as Record<string, string>;
}
