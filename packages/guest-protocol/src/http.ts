import { request, type Agent, type ClientRequest, type IncomingMessage } from "node:http";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

/** Where the agent is reached. */
export interface GuestAddress {
  /** Origin with any path before the agent's own, such as http://host/boxes/KEY/guest */
  readonly baseUrl: string;
  /** Sent with every request, such as `authorization`. */
  readonly headers?: Record<string, string>;
  /** Unix socket to dial instead of the origin's host. */
  readonly socketPath?: string;
  /** Connections, for streams that are neither TCP nor a unix socket. */
  readonly agent?: Agent;
}

/**
 * The agent, or the host before it, said no. `status` 0 means that nobody answered
 * (`code` is `UNREACHABLE`).
 */
export class GuestError extends Error {
  readonly code: string;
  readonly status: number;
  readonly details: Record<string, unknown>;
  constructor(
    code: string,
    status: number,
    message: string,
    details: Record<string, unknown> = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = "GuestError";
    this.code = code;
    this.status = status;
    this.details = details;
  }
}

export interface Call {
  readonly method: string;
  readonly path: string;
  readonly headers?: Record<string, string>;
  readonly body?: string | Uint8Array | Readable;
  readonly signal?: AbortSignal;
}

/*
 * Whoever answers may be a program of the box in the agent's place: what it says is read up to a
 * size and waited for up to a time, so that it costs the caller neither memory nor a stuck handler.
 */

/** Longest explanation of a failure that is read, in bytes. */
const MAX_ERROR_BYTES = 256 * 1024;
/** Longest JSON answer, in bytes: the last lines of a service's log, whose files hold 8 MiB. */
const MAX_JSON_BYTES = 16 * 1024 * 1024;
/** For a whole JSON answer, in milliseconds, unless the call itself may take longer. */
const JSON_TIMEOUT_MS = 60_000;
/** For an answer of which only the status matters, in bytes and milliseconds. */
const MAX_EMPTY_BYTES = 64 * 1024;
const EMPTY_TIMEOUT_MS = 5_000;

/** @throws GuestError for every status of 300 and above, and when nobody answers */
export async function send(address: GuestAddress, call: Call): Promise<IncomingMessage> {
  const url = new URL(address.baseUrl.replace(/\/$/, "") + call.path);
  const sent = request(url, {
    method: call.method,
    headers: { ...address.headers, ...call.headers },
    agent: address.agent,
    socketPath: address.socketPath,
    signal: call.signal,
  });
  const answered = answerOf(sent);
  // An early refusal closes the request while the body is still being sent: the answer tells why.
  const written = writeBody(sent, call.body).catch((error: unknown) => error);
  let response: IncomingMessage;
  try {
    response = await answered;
  } catch (cause) {
    if (call.signal?.aborted) throw cause;
    const bodyError = await written;
    const reason = bodyError instanceof Error ? bodyError : cause;
    throw new GuestError("UNREACHABLE", 0, "The box's agent did not answer.", {}, { cause: reason });
  }
  if ((response.statusCode ?? 0) < 300) return response;
  const timer = setTimeout(() => response.destroy(), EMPTY_TIMEOUT_MS);
  try {
    throw toGuestError(response.statusCode ?? 0, await readUpTo(response, MAX_ERROR_BYTES).catch(() => ""));
  } finally {
    clearTimeout(timer);
  }
}

export async function sendJson<T>(
  address: GuestAddress,
  call: Omit<Call, "body"> & { readonly timeoutMs?: number },
  body?: unknown,
): Promise<T> {
  const { timeoutMs = JSON_TIMEOUT_MS, signal, ...rest } = call;
  const deadline = AbortSignal.timeout(timeoutMs);
  try {
    const response = await send(address, {
      ...rest,
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
      headers: { ...call.headers, ...(body === undefined ? {} : { "content-type": "application/json" }) },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    return parseAnswer<T>(await readUpTo(response, MAX_JSON_BYTES + 1));
  } catch (cause) {
    if (signal?.aborted || cause instanceof GuestError) throw cause;
    const why = deadline.aborted ? `within ${timeoutMs} ms` : "to the end";
    throw new GuestError("UNREACHABLE", 0, `The box's agent did not answer ${why}.`, {}, { cause });
  }
}

function parseAnswer<T>(text: string): T {
  if (Buffer.byteLength(text) > MAX_JSON_BYTES) {
    const message = `The box's agent answered with more than ${MAX_JSON_BYTES} bytes.`;
    throw new GuestError("INVALID_ANSWER", 0, message);
  }
  try {
    return JSON.parse(text) as T;
  } catch (cause) {
    throw new GuestError(
      "INVALID_ANSWER",
      0,
      "The box's agent answered with something else than JSON.",
      {},
      { cause },
    );
  }
}

/** Reads an answer of which only the status matters. */
export async function discard(response: IncomingMessage): Promise<void> {
  const timer = setTimeout(() => response.destroy(), EMPTY_TIMEOUT_MS);
  try {
    await readUpTo(response, MAX_EMPTY_BYTES);
  } catch {
    // The status was a success; what should have followed it says nothing.
  } finally {
    clearTimeout(timer);
  }
}

function answerOf(sent: ClientRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    sent.once("response", resolve);
    sent.on("error", reject);
    sent.once("close", () => reject(new Error("the connection closed without an answer")));
  });
}

async function writeBody(sent: ClientRequest, body: Call["body"]): Promise<void> {
  if (body === undefined || typeof body === "string" || body instanceof Uint8Array) {
    sent.end(body);
    return;
  }
  await pipeline(body, sent);
}

/** The rest is not read; its connection closes. */
async function readUpTo(response: IncomingMessage, maxBytes: number): Promise<string> {
  let size = 0;
  const chunks: Buffer[] = [];
  for await (const chunk of response) {
    chunks.push(chunk as Buffer);
    size += (chunk as Buffer).length;
    if (size >= maxBytes) break;
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** Understands both the host's and our `{error: {code, message}}` and envd's `{code, message}`. */
function toGuestError(status: number, body: string): GuestError {
  try {
    const parsed = JSON.parse(body) as {
      code?: number | string;
      message?: string;
      error?: { code: string; message: string; details?: Record<string, unknown> };
    };
    if (parsed.error) {
      return new GuestError(parsed.error.code, status, parsed.error.message, parsed.error.details ?? {});
    }
    return new GuestError(`HTTP_${status}`, status, parsed.message ?? body);
  } catch (cause) {
    return new GuestError(
      `HTTP_${status}`,
      status,
      `The agent answered ${status}: ${body.slice(0, 500)}`,
      {},
      {
        cause,
      },
    );
  }
}
