/**
 * Every failure that a client can see. Programs switch on `code`; each has a page at /problems/CODE
 * on the tenant's API host.
 */
export const problems = {
  NOT_FOUND: { status: 404, title: "Not found" },
  INVALID_ID: { status: 400, title: "The id is neither a UUID nor a known name" },
  INVALID_JSON: { status: 400, title: "The body is not valid JSON" },
  VALIDATION_FAILED: { status: 422, title: "The request is not valid" },
  INVALID_FILTER: { status: 422, title: "The filter is not valid" },
  PAYLOAD_TOO_LARGE: { status: 413, title: "The body is too large" },
  UPGRADE_REQUIRED: { status: 426, title: "This address speaks WebSocket only" },
  METHOD_NOT_ALLOWED: { status: 405, title: "Method not allowed" },
  UNAUTHENTICATED: { status: 401, title: "Missing or unknown credential" },
  FORBIDDEN: { status: 403, title: "The credential does not allow this" },
  INVALID_TENANT_CONTEXT: { status: 403, title: "The key may not act for this tenant" },
  TENANT_RESOLUTION_FAILED: { status: 422, title: "No tenant for this host or key" },
  RATE_LIMITED: { status: 429, title: "Too many requests", retryable: true },
  INSUFFICIENT_CREDITS: { status: 402, title: "Not enough credits" },
  QUOTA_EXCEEDED: { status: 409, title: "A limit of the plan is reached" },
  IDEMPOTENCY_PAYLOAD_MISMATCH: { status: 409, title: "Idempotency-Key was used with another body" },
  CONFLICT: { status: 409, title: "The state does not allow this now" },
  NAME_TAKEN: { status: 409, title: "The name is in use" },

  SANDBOX_STARTING: { status: 409, title: "The sandbox is still starting", retryable: true },
  SANDBOX_NOT_RUNNING: { status: 409, title: "The sandbox is not running" },
  SANDBOX_READY_TIMEOUT: { status: 504, title: "The sandbox was not ready in time", retryable: true },
  SANDBOX_FILE_AGENT_UNAVAILABLE: { status: 502, title: "Files cannot be reached now", retryable: true },
  SANDBOX_AGENT_UNAVAILABLE: { status: 503, title: "The sandbox does not answer now", retryable: true },
  ISOLATION_UNAVAILABLE: { status: 409, title: "This machine cannot isolate the code as required" },
  TEMPLATE_NOT_FOUND: { status: 404, title: "Template not found" },
  TEMPLATE_NOT_READY: { status: 409, title: "The template has no image that can be used" },
  TEMPLATE_IN_USE: { status: 409, title: "The template is in use" },
  INVALID_BUILDSPEC: { status: 422, title: "The build spec is not valid" },
  TIMEOUT_TOO_LONG: { status: 422, title: "The time-out is over the limit" },
  INVALID_SETUP_FILE: { status: 422, title: "The setup file is not usable" },
  SNAPSHOT_IN_USE: { status: 409, title: "The snapshot is in use" },
  SNAPSHOT_NOT_READY: { status: 409, title: "The snapshot is not ready", retryable: true },
  FILE_NOT_FOUND: { status: 404, title: "File not found" },
  INVALID_PATH: { status: 422, title: "The path cannot be used" },
  DISK_FULL: { status: 507, title: "The disk is full" },
  PROCESS_NOT_FOUND: { status: 404, title: "Process not found" },
  SERVICE_NAME_TAKEN: { status: 409, title: "A service of this name runs already" },
  COUNT_MISMATCH: { status: 409, title: "The text occurs another number of times" },
  PATCH_REJECTED: { status: 409, title: "The patch does not fit the files" },
  GIT_FAILED: { status: 409, title: "Git refused" },
  SSH_UNAVAILABLE: { status: 409, title: "The sandbox has no SSH server" },
  BATCH_ALREADY_TERMINAL: { status: 409, title: "The batch has ended" },

  PORT_NOT_REACHABLE: { status: 409, title: "The port cannot be reached" },
  PREVIEW_PRIVATE: { status: 401, title: "The preview is private" },

  ENGINE_UNAVAILABLE: { status: 503, title: "The database engine is not installed" },
  ENGINE_VERSION_UNAVAILABLE: { status: 422, title: "The engine version is not offered" },
  DATABASE_NOT_READY: { status: 409, title: "The database is not ready", retryable: true },
  DATABASE_LOGIN_FAILED: { status: 409, title: "The credentials do not log in" },
  RESTORE_POINT_UNAVAILABLE: { status: 409, title: "The moment cannot be restored" },
  DATABASE_IN_USE: { status: 409, title: "The database is linked" },
  QUERY_FAILED: { status: 422, title: "The query failed" },
  QUERY_UNSUPPORTED: { status: 422, title: "The engine has no query language" },

  SOURCE_EMPTY: { status: 422, title: "There is nothing to publish" },
  SOURCE_CHANGED: { status: 409, title: "Files changed while they were frozen", retryable: true },
  SOURCE_INVALID: { status: 422, title: "The uploaded files cannot be unpacked" },
  SYMLINK_ESCAPES: { status: 422, title: "A link points out of the app's folder" },
  MANIFEST_INVALID: { status: 422, title: "The app manifest is not valid" },
  PACKAGE_JSON_INVALID: { status: 422, title: "package.json cannot be read" },
  PYPROJECT_INVALID: { status: 422, title: "pyproject.toml cannot be read" },
  PACKAGE_MANAGER_UNAVAILABLE: { status: 422, title: "The package manager is not offered" },
  FRAMEWORK_ADAPTER_MISSING: { status: 422, title: "The framework has no adapter for this platform" },
  LOCKFILE_OUT_OF_DATE: { status: 422, title: "The lockfile does not agree with the dependencies" },
  DEPENDENCY_CONFLICT: { status: 422, title: "Dependencies exclude each other" },
  DEPENDENCY_NOT_FOUND: { status: 422, title: "The registry does not have a dependency" },
  DEPENDENCY_MISSING: { status: 422, title: "A package that the app needs is not among its dependencies" },
  SCRIPT_MISSING: { status: 422, title: "package.json lacks a script that is called" },
  SOURCE_FILE_MISSING: { status: 422, title: "A file that the app needs is not in the release" },
  START_FILE_MISSING: { status: 422, title: "The file that the start command runs is not in the release" },
  MODULE_FORMAT: { status: 422, title: "Files and package.json disagree about the module format" },
  INSTALL_FAILED: { status: 422, title: "Installing the dependencies failed" },
  BUILD_FAILED: { status: 422, title: "The build failed" },
  BUILD_CANCELLED: { status: 409, title: "The build was cancelled" },
  BUILD_TIMEOUT: { status: 422, title: "The build took too long" },
  BUILD_OUT_OF_MEMORY: { status: 422, title: "The build ran out of memory" },
  STATIC_BUILD_FAILED: { status: 422, title: "The static build failed" },
  STATIC_OUTPUT_NOT_FOUND: { status: 422, title: "No static output was found" },
  START_COMMAND_MISSING: { status: 422, title: "No start command is known" },
  PREFLIGHT_NOT_LISTENING: { status: 422, title: "The release does not listen on its port" },
  PREFLIGHT_BOUND_TO_LOOPBACK: { status: 422, title: "The release listens on loopback only" },
  PREFLIGHT_EXITED: { status: 422, title: "The release exits at start" },
  PREFLIGHT_UNHEALTHY: { status: 422, title: "The release's health check fails" },
  PREFLIGHT_SERVICE_UNREACHABLE: {
    status: 422,
    title: "The release needs a service that only the sandbox has",
  },
  PREFLIGHT_OUT_OF_MEMORY: { status: 422, title: "The release ran out of memory at start" },
  REQUIRED_ENV_MISSING: { status: 422, title: "A required variable is not set" },
  SECRET_IN_ARTIFACT: { status: 422, title: "The artifact holds a run-time secret" },
  RELEASE_NOT_READY: { status: 409, title: "The release cannot be promoted" },
  PROVENANCE_INVALID: { status: 409, title: "The release is not what was built and signed" },
  PROMOTE_FAILED: { status: 409, title: "The release did not become healthy; traffic stays where it was" },
  PROMOTE_CANCELLED: { status: 409, title: "The promote was cancelled" },
  PROMOTE_TIMEOUT: { status: 409, title: "The promote did not end in time; traffic stays where it was" },
  MIGRATION_FAILED: { status: 409, title: "A migration did not run; traffic stays where it was" },
  CANARY_FAILED: { status: 409, title: "The canary failed; traffic stays where it was" },
  RELEASE_DIED: { status: 409, title: "The release died on trial; the one before serves again" },
  DEPLOYMENT_LOCKED: { status: 409, title: "The deployment takes no promotes now" },
  APPROVAL_REFUSED: { status: 403, title: "This approval does not count" },
  SCHEMA_NEWER: { status: 409, title: "Migrations ran that this release does not know" },
  NO_PREVIOUS_RELEASE: { status: 409, title: "There is no earlier release to return to" },
  DEPLOYMENT_BUSY: { status: 409, title: "Another operation runs on this deployment", retryable: true },
  UPLOAD_INCOMPLETE: { status: 409, title: "Chunks of the upload are missing" },
  DIGEST_MISMATCH: { status: 422, title: "The bytes do not have the stated digest" },

  CNAME_MISMATCH: { status: 422, title: "The DNS record does not point here" },
  DNS_LOOKUP_FAILED: { status: 422, title: "The DNS record was not found" },
  CERTIFICATE_INVALID: { status: 422, title: "The certificate cannot be served" },
  CERTIFICATE_NAMES_FOREIGN: { status: 422, title: "The certificate is for none of your host names" },
  DOMAIN_TAKEN: { status: 409, title: "The domain cannot be claimed" },
  API_KEY_ALREADY_ROTATED: { status: 409, title: "The key was rotated before" },
  EVENTS_NOT_WORKSPACE_SCOPABLE: { status: 422, title: "These events concern the whole tenant" },
  UNKNOWN_EVENT_TYPE: { status: 422, title: "Unknown event type" },
  REPLAY_NOT_POSSIBLE: { status: 409, title: "The delivery cannot be replayed" },
  BUCKET_NOT_EMPTY: { status: 409, title: "The bucket is not empty" },
  STORAGE_UNAVAILABLE: { status: 503, title: "Object storage does not answer now", retryable: true },

  HOST_UNAVAILABLE: { status: 503, title: "No machine can take this now", retryable: true },
  INTERNAL: { status: 500, title: "Something went wrong on our side" },
} as const satisfies Record<string, { status: number; title: string; retryable?: boolean }>;

export type ProblemCode = keyof typeof problems;

interface JsonPatchOperation {
  readonly op: "add" | "remove" | "replace";
  /** JSON pointer. */
  readonly path: string;
  readonly value?: unknown;
}

/**
 * One step of a repair that a program can do by itself, as `details.patch` lists them. Files are named from
 * the app's folder; one that a step removes need not be there.
 */
export type ProblemPatch =
  | { readonly type: "json-patch"; readonly file: string; readonly operations: readonly JsonPatchOperation[] }
  /** Of the request's own body. With `needs_value`, the value is for the caller to fill in. */
  | {
      readonly type: "request";
      readonly operations: readonly JsonPatchOperation[];
      readonly needs_value?: boolean;
    }
  /** Replaces the text where it stands, on `line` only if one is given. */
  | {
      readonly type: "edit";
      readonly file: string;
      readonly line?: number;
      readonly find: string;
      readonly replace: string;
    }
  | { readonly type: "append"; readonly file: string; readonly text: string }
  | { readonly type: "write"; readonly file: string; readonly content: string }
  | { readonly type: "remove"; readonly file: string };

export interface ProblemExtras {
  /** Facts for programs: no secret, address or provider name. */
  readonly details?: Record<string, unknown>;
  /** Field to messages; only with status 422. */
  readonly errors?: Record<string, string[]>;
  /** Milliseconds after which the same request may succeed. */
  readonly retryAfterMs?: number;
  readonly cause?: unknown;
}

/** An expected failure. The message says what, why and what to do. */
export class PlatformError extends Error {
  readonly code: ProblemCode;
  readonly details: Record<string, unknown>;
  readonly errors: Record<string, string[]> | undefined;
  readonly retryAfterMs: number | undefined;

  constructor(code: ProblemCode, message: string, extras: ProblemExtras = {}) {
    super(message, { cause: extras.cause });
    this.name = "PlatformError";
    this.code = code;
    this.details = extras.details ?? {};
    this.errors = extras.errors;
    this.retryAfterMs = extras.retryAfterMs;
  }

  get status(): number {
    return problems[this.code].status;
  }

  get isRetryable(): boolean {
    const entry: { status: number; retryable?: boolean } = problems[this.code];
    // A time to wait says the same as the flag: the same request may succeed then.
    return entry.retryable ?? this.retryAfterMs !== undefined;
  }
}

/** The body of an error answer: the contract's `error` object and the members of RFC 9457. */
export function toProblemBody(
  error: PlatformError,
  problemsUrl: string,
  requestId: string,
): Record<string, unknown> {
  return {
    error: {
      code: error.code,
      message: error.message,
      details: error.details,
      retryable: error.isRetryable,
      ...(error.retryAfterMs === undefined ? {} : { retry_after_ms: error.retryAfterMs }),
    },
    // Clients read `errors` on 422 alone, and take its presence for a refused field.
    ...(error.errors && error.status === 422 ? { errors: error.errors } : {}),
    type: `${problemsUrl}/${error.code}`,
    title: problems[error.code].title,
    status: error.status,
    detail: error.message,
    ...(typeof error.details["pointer"] === "string" ? { pointer: error.details["pointer"] } : {}),
    instance: `urn:request:${requestId}`,
  };
}

export const notFound = (what: string) =>
  new PlatformError(
    "NOT_FOUND",
    `${what} does not exist, or this key may not see it. List what there is and retry.`,
  );
