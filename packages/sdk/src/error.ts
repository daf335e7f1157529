/** The server answered with an error. `code` is stable; `message` is for people. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;
  readonly details: Record<string, unknown>;
  /** Field to messages, on 422 only. */
  readonly fields: Record<string, string[]>;
  readonly requestId: string | null;
  readonly retryable: boolean;
  /** Milliseconds that the server asks to wait before the next try. */
  readonly retryAfterMs: number | null;

  constructor(init: ApiErrorInit) {
    super(init.message);
    this.name = "ApiError";
    this.status = init.status;
    this.code = init.code;
    this.details = init.details ?? {};
    this.fields = init.fields ?? {};
    this.requestId = init.requestId ?? null;
    this.retryable = init.retryable ?? false;
    this.retryAfterMs = init.retryAfterMs ?? null;
  }
}

export interface ApiErrorInit {
  readonly status: number;
  readonly code: string;
  readonly message: string;
  readonly details?: Record<string, unknown>;
  readonly fields?: Record<string, string[]>;
  readonly requestId?: string | null;
  readonly retryable?: boolean;
  readonly retryAfterMs?: number | null;
}

/** No answer came: refused, dropped, or slower than the time-out. */
export class ConnectionError extends Error {
  readonly code: "CONNECTION_FAILED" | "TIMEOUT" | "STREAM_LOST";
  constructor(code: ConnectionError["code"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "ConnectionError";
    this.code = code;
  }
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const asText = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined);

/** @returns milliseconds from `Retry-After` (seconds or a date), or null */
export function retryAfterMs(headers: Headers, now = Date.now()): number | null {
  const value = headers.get("retry-after");
  if (value === null) return null;
  const ms = /^\d+$/.test(value.trim()) ? Number(value) * 1000 : Date.parse(value) - now;
  return Number.isFinite(ms) ? Math.max(0, ms) : null;
}

function toFields(value: unknown): Record<string, string[]> {
  if (!isRecord(value)) return {};
  return Object.fromEntries(
    Object.entries(value).map(([name, messages]) => [
      name,
      (Array.isArray(messages) ? messages : [messages]).map(String),
    ]),
  );
}

/** Reads the contract's error body; a body that is none (a proxy's page) still gives a usable error. */
export function toApiError(status: number, headers: Headers, text: string): ApiError {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    body = null; // Not JSON: the status alone has to say it.
  }
  const outer = isRecord(body) ? body : {};
  const error = isRecord(outer["error"]) ? outer["error"] : outer;
  const hint = error["retry_after_ms"];
  return new ApiError({
    status,
    code: asText(error["code"]) ?? `HTTP_${status}`,
    message:
      asText(error["message"]) ?? asText(outer["error"]) ?? `The server answered with status ${status}.`,
    details: isRecord(error["details"]) ? error["details"] : {},
    fields: toFields(outer["errors"]),
    requestId: headers.get("x-request-id"),
    retryable: error["retryable"] === true,
    retryAfterMs: retryAfterMs(headers) ?? (typeof hint === "number" ? hint : null),
  });
}
