/**
 * Every page of the edge. What they say is in texts/, by kind and language.
 *
 * `retryAfterSec`: seconds, for Retry-After; null if waiting does not help by itself.
 */
export const pageKinds = {
  not_found: { status: 404, code: "HOST_NOT_FOUND", retryAfterSec: null },
  file_not_found: { status: 404, code: "NOT_FOUND", retryAfterSec: null },
  starting: { status: 503, code: "APP_STARTING", retryAfterSec: 2 },
  start_failed: { status: 503, code: "APP_DID_NOT_START", retryAfterSec: null },
  stopped: { status: 503, code: "APP_STOPPED", retryAfterSec: 60 },
  build_failed: { status: 503, code: "BUILD_FAILED", retryAfterSec: null },
  over_quota: { status: 503, code: "OVER_QUOTA", retryAfterSec: null },
  error: { status: 502, code: "APP_UNREACHABLE", retryAfterSec: null },
  sandbox_not_found: { status: 502, code: "SANDBOX_NOT_FOUND", retryAfterSec: null },
  port_closed: { status: 502, code: "PORT_CLOSED", retryAfterSec: null },
  timeout: { status: 504, code: "APP_TIMEOUT", retryAfterSec: null },
  unavailable: { status: 503, code: "SERVICE_UNAVAILABLE", retryAfterSec: 2 },
  maintenance: { status: 503, code: "MAINTENANCE", retryAfterSec: 120 },
  certificate_pending: { status: 503, code: "CERTIFICATE_PENDING", retryAfterSec: 10 },
  busy: { status: 503, code: "OVERLOADED", retryAfterSec: 5 },
  rate_limited: { status: 429, code: "RATE_LIMITED", retryAfterSec: 5 },
  private: { status: 401, code: "PREVIEW_PRIVATE", retryAfterSec: null },
  bad_request: { status: 400, code: "BAD_REQUEST", retryAfterSec: null },
  headers_too_large: { status: 431, code: "HEADERS_TOO_LARGE", retryAfterSec: null },
  method_not_allowed: { status: 405, code: "METHOD_NOT_ALLOWED", retryAfterSec: null },
} as const satisfies Record<string, { status: number; code: string; retryAfterSec: number | null }>;

export type PageKind = keyof typeof pageKinds;
