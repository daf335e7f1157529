/** Every page of the edge. `message` is for the visitor, `action` says what to do next. */
export const pageKinds = {
  not_found: {
    status: 404,
    code: "HOST_NOT_FOUND",
    title: "Nothing is published here",
    message: "There is no app at this address.",
    action: "Check the address, or ask whoever gave it to you.",
    retryAfterSec: null,
  },
  file_not_found: {
    status: 404,
    code: "NOT_FOUND",
    title: "Page not found",
    message: "This app has no page at this address.",
    action: "Check the address or go back to the start page.",
    retryAfterSec: null,
  },
  starting: {
    status: 503,
    code: "APP_STARTING",
    title: "Starting",
    message: "This app is starting.",
    action: "This page reloads by itself in a moment.",
    retryAfterSec: 2,
  },
  stopped: {
    status: 503,
    code: "APP_STOPPED",
    title: "This app is stopped",
    message: "Its owner has stopped it.",
    action: "Ask its owner to start it again.",
    retryAfterSec: 60,
  },
  error: {
    status: 502,
    code: "APP_UNREACHABLE",
    title: "This app does not answer",
    message: "The app could not be reached or closed the connection without an answer.",
    action: "Try again shortly. If it stays like this, report the request number below.",
    retryAfterSec: null,
  },
  sandbox_not_found: {
    status: 502,
    code: "SANDBOX_NOT_FOUND",
    title: "This sandbox does not run",
    message: "There is no running sandbox at this address.",
    action: "Start it again, or ask whoever gave you the address.",
    retryAfterSec: null,
  },
  port_closed: {
    status: 502,
    code: "PORT_CLOSED",
    title: "Nothing listens here yet",
    message: "The sandbox runs, but no program in it listens on this port.",
    action: "Start the program, then load this page again.",
    retryAfterSec: null,
  },
  timeout: {
    status: 504,
    code: "APP_TIMEOUT",
    title: "This app takes too long",
    message: "The app did not answer in time.",
    action: "Try again shortly. If it stays like this, report the request number below.",
    retryAfterSec: null,
  },
  unavailable: {
    status: 503,
    code: "SERVICE_UNAVAILABLE",
    title: "Not available right now",
    message: "The service does not accept requests at this moment. Nothing was changed.",
    action: "Try again in a few seconds.",
    retryAfterSec: 2,
  },
  maintenance: {
    status: 503,
    code: "MAINTENANCE",
    title: "Maintenance",
    message: "This app is being worked on.",
    action: "Try again in a few minutes.",
    retryAfterSec: 120,
  },
  busy: {
    status: 503,
    code: "OVERLOADED",
    title: "Too many requests at once",
    message: "This app is starting and many requests wait for it already.",
    action: "Try again in a few seconds.",
    retryAfterSec: 5,
  },
  private: {
    status: 401,
    code: "PREVIEW_PRIVATE",
    title: "This preview is private",
    message: "Only people with its link may see it.",
    action: "Open the full link that you were given, or ask its owner for one.",
    retryAfterSec: null,
  },
  bad_request: {
    status: 400,
    code: "BAD_REQUEST",
    title: "Bad request",
    message: "The request is not well-formed.",
    action: "Send exactly one valid Host, one framing of the body and a path that starts with a slash.",
    retryAfterSec: null,
  },
  headers_too_large: {
    status: 431,
    code: "HEADERS_TOO_LARGE",
    title: "Request headers too large",
    message: "The headers of the request are larger than 64 KiB.",
    action: "Delete the cookies of this site and try again.",
    retryAfterSec: null,
  },
  method_not_allowed: {
    status: 405,
    code: "METHOD_NOT_ALLOWED",
    title: "Method not allowed",
    message: "Only GET and HEAD are possible here.",
    action: "Use GET.",
    retryAfterSec: null,
  },
} as const satisfies Record<
  string,
  {
    status: number;
    code: string;
    title: string;
    message: string;
    action: string;
    /** Seconds, for Retry-After; null if waiting does not help by itself. */
    retryAfterSec: number | null;
  }
>;

export type PageKind = keyof typeof pageKinds;
