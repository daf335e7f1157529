import { createHmac } from "node:crypto";
import { request, type Agent } from "undici";
import { assertTarget, TargetNotAllowedError } from "./target.ts";

export interface Delivery {
  readonly id: string;
  readonly url: string;
  readonly secret: string;
  readonly headers: Record<string, string>;
  readonly eventType: string;
  readonly tenantId: string;
  readonly occurredAt: Date;
  readonly data: Record<string, unknown>;
}

export interface Outcome {
  readonly ok: boolean;
  /** False: the same request can never succeed. */
  readonly mayRetry: boolean;
  readonly status: number | null;
  /** Beginning of the receiver's answer. */
  readonly body: string | null;
  /** Stable reason of a failure. */
  readonly error: string | null;
}

const timeoutMs = 10_000;
const keptBytes = 2_048;
const mostBytes = 1024 * 1024;

/** The same bytes at every attempt. */
function bodyOf(delivery: Delivery, data: Record<string, unknown>): Buffer {
  const at = delivery.occurredAt.toISOString();
  return Buffer.from(
    JSON.stringify({
      id: delivery.id,
      delivery_id: delivery.id,
      event: delivery.eventType,
      type: delivery.eventType,
      occurred_at: at,
      timestamp: at,
      tenant_id: delivery.tenantId,
      data,
    }),
  );
}

export function signedRequest(delivery: Delivery): { body: Buffer; headers: Record<string, string> } {
  let body = bodyOf(delivery, delivery.data);
  if (body.length > mostBytes) {
    const { resource_type, resource_id } = delivery.data;
    body = bodyOf(delivery, { resource_type, resource_id, truncated: true });
  }
  const signature = createHmac("sha256", delivery.secret).update(body).digest("hex");
  return {
    body,
    headers: {
      "user-agent": "webhooks/1.0",
      ...delivery.headers,
      "content-type": "application/json",
      "x-miosa-event": delivery.eventType,
      "x-miosa-delivery": delivery.id,
      "x-miosa-signature": `sha256=${signature}`,
    },
  };
}

const reasons: Record<string, string> = {
  ECONNREFUSED: "CONNECTION_REFUSED",
  ECONNRESET: "CONNECTION_LOST",
  UND_ERR_SOCKET: "CONNECTION_LOST",
  ENOTFOUND: "NAME_NOT_FOUND",
  EAI_AGAIN: "NAME_LOOKUP_FAILED",
  UND_ERR_CONNECT_TIMEOUT: "TIMEOUT",
  UND_ERR_HEADERS_TIMEOUT: "TIMEOUT",
  UND_ERR_BODY_TIMEOUT: "TIMEOUT",
};

function reasonOf(error: unknown): string {
  const { name, code } = error as { name?: string; code?: unknown };
  if (name === "TimeoutError") return "TIMEOUT";
  if (typeof code !== "string") return "NETWORK_FAILED";
  return (
    reasons[code] ?? (/CERT|TLS|SSL|SELF_SIGNED/.test(code) ? "CERTIFICATE_NOT_VALID" : "NETWORK_FAILED")
  );
}

function isRefusedTarget(error: unknown): boolean {
  for (let one = error; one instanceof Error; one = one.cause)
    if (one instanceof TargetNotAllowedError) return true;
  return false;
}

async function beginning(body: AsyncIterable<Buffer>): Promise<string> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of body) {
    parts.push(part);
    size += part.length;
    if (size >= keptBytes) break;
  }
  // Postgres text cannot hold NUL.
  return Buffer.concat(parts).subarray(0, keptBytes).toString("utf8").replaceAll("\0", "");
}

/** One attempt. Redirects are not followed: the target of one was never checked. Never throws. */
export async function send(
  delivery: Delivery,
  dispatcher: Agent,
  options: { allowPrivate: boolean; signal: AbortSignal },
): Promise<Outcome> {
  try {
    assertTarget(new URL(delivery.url), options.allowPrivate);
    const { body, headers } = signedRequest(delivery);
    const response = await request(delivery.url, {
      method: "POST",
      headers,
      body,
      dispatcher,
      signal: AbortSignal.any([options.signal, AbortSignal.timeout(timeoutMs)]),
    });
    const status = response.statusCode;
    const text = await beginning(response.body).catch(() => null); // The status is the answer; its text is a help.
    if (status >= 200 && status < 300) return { ok: true, mayRetry: false, status, body: text, error: null };
    const error = status >= 300 && status < 400 ? "REDIRECT_NOT_FOLLOWED" : "STATUS_NOT_2XX";
    return { ok: false, mayRetry: true, status, body: text, error };
  } catch (error) {
    if (isRefusedTarget(error))
      return { ok: false, mayRetry: false, status: null, body: null, error: "TARGET_NOT_ALLOWED" };
    return { ok: false, mayRetry: true, status: null, body: null, error: reasonOf(error) };
  }
}
